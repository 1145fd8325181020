//! What a crash, a lost answer, a late commit, a frozen leader or a change of leader may cost: nothing.

pub(crate) mod field;
mod leaders;
mod points;
mod tokens;
mod uncertain;
