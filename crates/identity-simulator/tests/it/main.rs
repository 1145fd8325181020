//! The simulator from outside: over TLS, as a client of the real services would call it.

mod app_id;
mod binary;
mod control;
mod faults;
mod iam;
mod keys;
mod oidc;
mod sdk;
mod secure_auth;
mod verify;
mod world;
