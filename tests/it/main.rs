//! Tests of the operator as a process, on a real control plane, against the simulator.

mod adoption;
mod deletion;
mod first;
mod restore;
mod secrets;
