//! Tokens of a file (`--token-auth-file`): lines of token, user, uid and groups.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::token::{TokenAuthenticator, TokenError, TokenIdentity, own_audiences};
use crate::user::User;

/// Accepts the tokens of a file.
#[derive(Default)]
pub struct TokenFile {
    users: ArcSwap<HashMap<String, Arc<User>>>,
    audiences: Vec<String>,
}

impl TokenFile {
    /// No tokens yet; they are good for these audiences.
    pub fn new(audiences: Vec<String>) -> Self {
        TokenFile {
            users: ArcSwap::default(),
            audiences,
        }
    }

    /// Takes a file's contents in place of what was there.
    pub fn replace(&self, text: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(text).map_err(|e| e.to_string())?;
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line).ok_or_else(|| format!("line {}: a quote is open", at + 1))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!(
                    "token file must have at least 3 columns (token, user name, user uid), found {}",
                    fields.len()
                ));
            };
            if token.is_empty() {
                tracing::warn!(
                    line = at + 1,
                    "empty token has been found in the token file"
                );
                continue;
            }
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let user = User {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups
                    .split(',')
                    .filter(|g| !g.is_empty())
                    .map(str::to_owned)
                    .collect(),
                ..User::default()
            };
            users.insert(token.clone(), Arc::new(user));
        }
        self.users.store(Arc::new(users));
        Ok(())
    }
}

/// The fields of a line of comma separated values; `None` if a quote is open.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                fields.last_mut()?.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            // Spaces in front of a field are none of it.
            ' ' if !quoted && fields.last()?.is_empty() => {}
            other => fields.last_mut()?.push(other),
        }
    }
    (!quoted).then_some(fields)
}

#[async_trait]
impl TokenAuthenticator for TokenFile {
    async fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenIdentity>, TokenError> {
        let Some(audiences) = own_audiences(&self.audiences, audiences) else {
            return Ok(None);
        };
        Ok(self.users.load().get(token).map(|user| TokenIdentity {
            user: user.clone(),
            audiences,
            warning: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_users_and_a_wrong_file_changes_nothing() {
        let file = TokenFile::new(vec![]);
        file.replace(b"t1,jane,7,\"dev,ops\"\nt2, joe,8\n\n")
            .unwrap();
        let jane = file.authenticate("t1", &[]).await.unwrap().unwrap().user;
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "7"));
        assert_eq!(jane.groups, ["dev", "ops"]);
        let joe = file.authenticate("t2", &[]).await.unwrap().unwrap().user;
        assert_eq!(joe.name, "joe");
        assert!(file.replace(b"t3,x\n").unwrap_err().contains("found 2"));
        assert!(file.replace(b"t3,\"x,1\n").is_err());
        assert!(file.authenticate("t1", &[]).await.unwrap().is_some());
        assert!(file.authenticate("t3", &[]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_token_is_nobodys_where_other_audiences_are_asked_for() {
        let file = TokenFile::new(vec!["api".into()]);
        file.replace(b"t1,jane,7\n").unwrap();
        let here = ["other".to_owned(), "api".to_owned()];
        let found = file.authenticate("t1", &here).await.unwrap().unwrap();
        assert_eq!(found.audiences, ["api"]);
        let elsewhere = ["other".to_owned()];
        assert!(file.authenticate("t1", &elsewhere).await.unwrap().is_none());
    }
}
