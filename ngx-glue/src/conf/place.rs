//! Where a directive is, for messages that come later than nginx's own.

use std::{
    fmt::{self, Display},
    rc::Rc,
};

/// A line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(Option<(Rc<str>, usize)>);

impl Place {
    /// Line `line` (from 1) of `file`.
    pub(crate) fn new(file: &[u8], line: usize) -> Self {
        Self(Some((String::from_utf8_lossy(file).into(), line)))
    }

    /// The argument of nginx's `-g`.
    pub(crate) const fn command_line() -> Self {
        Self(None)
    }
}

/// Gives `line` a message in nginx's form: `MESSAGE in FILE:LINE`. Further lines of the message (a backtrace) follow
/// as lines of their own.
pub(crate) fn report(place: &dyn Display, message: &str, mut line: impl FnMut(&str)) {
    let mut lines = message.trim_end().lines();
    line(&format!("{} in {place}", lines.next().unwrap_or_default().trim_end_matches([':', '.'])));
    lines.for_each(line);
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((file, line)) => write!(f, "{file}:{line}"),
            None => f.write_str("command line"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, report};

    fn reported(place: &Place, message: &str) -> Vec<String> {
        let mut lines = Vec::new();
        report(place, message, |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn the_place_ends_the_first_line() {
        let place = Place::new(b"/etc/nginx/nginx.conf", 7);
        assert_eq!(
            reported(&place, "it trapped:\n  at a\n  at b\n"),
            ["it trapped in /etc/nginx/nginx.conf:7", "  at a", "  at b"]
        );
    }

    #[test]
    fn the_command_line_is_named_as_nginx_does() {
        assert_eq!(reported(&Place::command_line(), "no"), ["no in command line"]);
    }
}
