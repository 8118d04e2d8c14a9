//! What local clusters promise, told as stories: real servers, made by the library and by the program.

mod cluster;
mod promotion;
mod refusals;
mod servers;
mod standalone;
