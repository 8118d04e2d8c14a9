//! What local clusters promise, told as tests: real servers, made by the library and by the program.

mod cluster;
mod lone;
mod promotion;
mod refusals;
mod servers;
