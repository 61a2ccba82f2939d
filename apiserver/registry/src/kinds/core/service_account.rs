//! ServiceAccount: who a pod is to the API.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{Access, items_mut};
use crate::columns::{AGE, Column, NAME};
use crate::print;
use crate::strategy::{Context, Strategy};

/// The rules of ServiceAccount. Tokens are the API server's.
pub struct Rules;

impl Strategy for Rules {
    fn prepare_for_create(&self, account: &mut Value, _context: &Context<'_>) {
        clean_references(account);
    }

    fn prepare_for_update(&self, new: &mut Value, _old: &Value, _context: &Context<'_>) {
        clean_references(new);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, account: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(account), print::age(account, now)]
    }
}

/// Secrets are referred to by name alone.
fn clean_references(account: &mut Value) {
    for secret in items_mut(account, "secrets") {
        *secret = json!({"name": secret.text("name")});
    }
}
