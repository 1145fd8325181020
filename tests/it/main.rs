//! Tests of the operator as a process, on a real control plane, against the simulator.

mod adoption;
mod canary;
mod chart;
mod counts;
mod crash;
mod deletion;
mod errors;
mod first;
mod generated;
mod iam;
mod isolation;
mod laptop;
mod ledger;
mod ownership;
mod permits;
mod promises;
mod real;
mod refresh_tokens;
mod restore;
mod sdk;
mod secrets;
mod services;
mod surface;
mod switches;
mod tokens;
mod traps;
