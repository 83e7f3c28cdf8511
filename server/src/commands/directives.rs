//! `REPLICATED CONFIG CHECK|APPLY n kept… [name value …]`: the directives that `redis.conf` holds now, from the operator.
//!
//! The reply is an array of arrays, one for each parameter that is not as wanted, empty when all are: `name set` (changed by
//! APPLY, could be by CHECK), `name restart now wanted` (only another start can change it), `name refused reason`. Where one is
//! refused nothing is changed.

use engine::CommandError;

use super::ServerCtx;
use crate::config::{self, Settings};
use crate::dispatch::Next;

pub(crate) fn command(ctx: &mut ServerCtx<'_>) -> Result<Next, CommandError> {
    let apply = match &ctx.args.at(2).to_ascii_lowercase()[..] {
        b"check" => false,
        b"apply" => true,
        _ => return Err(CommandError::Syntax),
    };
    let kept = resp::number::parse_u64(ctx.args.at(3)).and_then(|n| usize::try_from(n).ok());
    let mut words = ctx.args.skip(4).iter().map(|word| String::from_utf8_lossy(word).into_owned());
    let words_left = ctx.args.len() - 4;
    let kept = kept.filter(|n| *n <= words_left && (words_left - n).is_multiple_of(2)).ok_or(CommandError::Syntax)?;
    let kept: Vec<String> = words.by_ref().take(kept).collect();
    let rest: Vec<String> = words.collect();
    let directives: Vec<(String, String)> =
        rest.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();

    let mut told: Vec<Vec<String>> = Vec::new();
    let shown =
        |name: &str, value: &str| if Settings::is_secret(name) { "(redacted)".into() } else { value.to_string() };
    match config::changes(ctx.settings, &kept, &directives) {
        Err(refused) => told.extend(refused.into_iter().map(|(name, reason)| vec![name, "refused".into(), reason])),
        Ok(changes) => {
            let set = changes.live.iter().map(|name| vec![name.to_string(), "set".into()]);
            let restart = changes
                .restart
                .iter()
                .map(|(name, now, then)| vec![name.to_string(), "restart".into(), shown(name, now), shown(name, then)]);
            told.extend(set.chain(restart));
            if apply && !changes.live.is_empty() {
                match ctx.server.change_settings(changes.settings) {
                    Ok(()) => tracing::info!("changed by the operator: {}", changes.live.join(", ")),
                    Err((name, reason)) => told = vec![vec![name.to_string(), "refused".into(), reason]],
                }
            }
        }
    }
    let out = &mut ctx.session.out;
    out.array(told.len());
    for one in &told {
        out.array(one.len());
        one.iter().for_each(|word| out.bulk(word.as_bytes()));
    }
    Ok(Next::Continue)
}
