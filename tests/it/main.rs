//! Tests of the operator as a process, on a real control plane, against the simulator.

mod chart;
mod counts;
mod crash;
mod errors;
mod first;
mod generated;
mod laptop;
mod sdk;
mod secrets;
mod surface;
