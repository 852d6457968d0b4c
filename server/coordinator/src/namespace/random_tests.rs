//! Random operations keep everything together.
