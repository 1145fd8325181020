//! Tests of the operator as a process, on a real control plane, against the simulator.

mod counts;
mod crash;
mod first;
mod generated;
mod secrets;
mod surface;
