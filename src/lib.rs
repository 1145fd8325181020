//! A Kubernetes operator that turns identity into plain Kubernetes objects.
//!
//! Read in this order: [`model`] (the words), [`plan`] (the rules), [`provider`] (the services' wire formats),
//! [`api`] (what users write), [`controller`] (gather → plan → perform → report), [`cli`] (how it is run).

pub mod api;
pub mod cli;
pub mod controller;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod provider;
pub mod reasons;
pub mod server;
