//! `keelson`: brings a cluster up and down on this machine, looks at it, and cleans up after it.
//!
//! One file a command. What a cluster consists of is data: [`layout`] (folders, addresses), [`certificates`],
//! [`configuration`] (each daemon's file), [`components`] (each daemon's command line). The daemons themselves know nothing of this crate.

pub mod addons;
pub mod assembly;
pub mod certificates;
pub mod check;
pub mod components;
pub mod configuration;
pub mod down;
pub mod example;
pub mod failure;
pub mod host;
pub mod images;
pub mod kubeconfig;
pub mod layout;
pub mod netns;
pub mod nodes;
pub mod progress;
pub mod secrets;
pub mod status;
pub mod supervisor;
pub mod support;
pub mod systemd;
pub mod uninstall;
pub mod up;
