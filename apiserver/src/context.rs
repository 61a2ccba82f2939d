//! What strategies may know of a request's caller.

use keelson_auth::User;
use keelson_registry::UserInfo;

/// The caller, as strategies see it.
pub fn user(user: &User) -> UserInfo<'_> {
    UserInfo {
        name: &user.name,
        uid: &user.uid,
        groups: &user.groups,
        extra: &user.extra,
    }
}
