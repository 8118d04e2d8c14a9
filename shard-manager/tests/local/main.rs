//! What local clusters promise, told as tests: real servers, made by the library and by the program.

mod cluster;
mod promotion;
mod refusals;
mod servers;
mod standalone;
