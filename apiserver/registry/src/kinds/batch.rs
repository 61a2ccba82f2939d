//! The kinds of batch: pods that end.

pub mod cron_job;
pub mod job;
mod job_policies;
mod job_status;
mod schedule;
