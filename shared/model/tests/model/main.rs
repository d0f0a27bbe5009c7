//! The model against the reference's outputs, against itself, and against damaged files.

#![cfg(test)]

mod chunks;
mod copy;
mod dense;
mod draws;
mod invariance;
mod loading;
mod parity;
mod run;
mod siglip;
mod tower;
mod window;
