//! Rows of features: the offline store, the online store, and Feast's own formats.
//!
//! Data flows through the modules in this order: [`view`] says which versions are served, [`offline`] gives a
//! row its revision inside the flush, [`parquet`] copies it for Feast's file store, [`online`] keeps the newest
//! row of every entity, in the bytes of [`feast`]; [`export`] writes the Feast repository that describes it all.

pub mod feast;
pub mod offline;
mod sql;
pub mod view;
