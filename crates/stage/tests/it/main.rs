//! Tests of the stage itself: what it promises to tests.

mod ending;
