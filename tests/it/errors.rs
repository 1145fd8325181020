//! What goes wrong at the services: the right condition, the right wait, nothing made or lost, and back to work afterwards.

mod absence;
mod addresses;
mod credentials;
mod limits;
mod statuses;
mod table;
