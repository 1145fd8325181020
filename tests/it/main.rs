//! Tests of the operator as a process, on a real control plane, against the simulator.

mod errors;
mod first;
