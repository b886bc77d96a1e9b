//! The integration tests, in one binary: the program as a user meets it, and the house rules.

mod program;
mod tidy;
