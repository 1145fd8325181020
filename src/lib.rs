//! A Kubernetes operator that turns identity into plain Kubernetes objects.

pub mod api;
