//! What the command line promises, told as tests: the real program, run on clusters that the library made.

mod check;
mod cluster;
mod damage;
mod export;
mod files;
mod import;
mod migrate;
mod placement;
mod results;
mod speed;
mod status;
mod unclean;
