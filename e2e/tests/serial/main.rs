//! Scenarios that break what others stand on: one at a time.

mod drain_node;
mod operator_ha;
mod operator_restart;
mod spot_interruption;
