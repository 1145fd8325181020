//! Tests of the operator as a process, on a real control plane, against the simulator.

mod adoption;
mod chart;
mod counts;
mod crash;
mod deletion;
mod errors;
mod first;
mod generated;
mod laptop;
mod restore;
mod sdk;
mod counts;
mod crash;
mod deletion;
mod first;
mod generated;
mod ownership;
mod permits;
mod restore;
mod secrets;
mod surface;
mod traps;
