//! File of roles: a JSON file that contains one role or a list of roles.
//!
//! **Invariant:** if one role is faulty, the whole file is refused, so that no key is used with an
//! older definition of a role than that in the file. An error names the faulty role by its index in
//! the list.
//! **Not here:** reading the file, the JSON of one role (`document`).

use std::collections::HashSet;

use serde_json::value::RawValue;

use super::{AccessRole, RoleError, RoleFault, document};
use crate::json_member;

pub(super) fn parse(json: &str) -> Result<Vec<AccessRole>, RoleError> {
    if !json.trim_ascii_start().starts_with('[') {
        return Ok(vec![AccessRole::parse(json)?]);
    }
    let list: Vec<Box<RawValue>> = json_member::read(json).map_err(|text| RoleError {
        member: "the list of roles".to_owned(),
        fault: RoleFault::Json(text),
    })?;
    let mut roles: Vec<AccessRole> = Vec::with_capacity(list.len());
    let mut names = HashSet::new();
    for (index, json) in list.iter().enumerate() {
        let role = AccessRole::parse(json.get()).map_err(|error| within(index, error))?;
        if !names.insert(Box::<str>::from(role.name())) {
            return Err(RoleError { member: format!("[{index}].role"), fault: RoleFault::Twice });
        }
        roles.push(role);
    }
    Ok(roles)
}

/// Puts the index of a role in the list before the name of the faulty member in an error.
fn within(index: usize, error: RoleError) -> RoleError {
    let is_whole = error.member == document::WHOLE;
    let member =
        if is_whole { format!("[{index}]") } else { format!("[{index}].{}", error.member) };
    RoleError { member, ..error }
}
