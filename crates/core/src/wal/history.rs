//! Timeline history files: the timelines that one descends from, and the points of the forks (`timeline.c` in PostgreSQL).

use crate::lsn::Lsn;

/// A timeline and its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline itself.
    pub timeline: u32,
    /// Each ancestor, and where it was left.
    pub ancestors: Vec<(u32, Lsn)>,
}

impl TimelineHistory {
    /// The content of a `.history` file: lines of parent, switch point and reason, at least one, in order.
    pub fn parse(timeline: u32, text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim);
        let ancestors = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
            })
            .collect::<Option<Vec<(u32, Lsn)>>>()?;
        // One that was cut short must not look like that of a timeline which begins with itself.
        let (newest, _) = ancestors.last()?;
        let in_order = ancestors
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        (in_order && *newest < timeline).then_some(TimelineHistory { timeline, ancestors })
    }

    /// The parent of this timeline, and the point of the fork; none for the first one.
    pub fn parent(&self) -> Option<(u32, Lsn)> {
        self.ancestors.last().copied()
    }

    /// Can a backup that ends at `finish` on `timeline` be recovered to this timeline?
    pub fn leads_from(&self, timeline: u32, finish: Lsn) -> bool {
        timeline == self.timeline
            || self
                .ancestors
                .iter()
                .any(|(ancestor, switch)| *ancestor == timeline && finish <= *switch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_after_the_fork_does_not_lead_there() {
        let history =
            TimelineHistory::parse(3, "1\t0/3000000\tno recovery target\n\n2\t0/5000000\tx\n").expect("parsed");
        assert!(history.leads_from(1, Lsn(0x3000000)) && !history.leads_from(1, Lsn(0x3000001)));
        assert!(history.leads_from(2, Lsn(0x4000000)) && history.leads_from(3, Lsn(u64::MAX)));
        assert!(!history.leads_from(4, Lsn(0)));
        for text in [
            "hello",
            "",
            "# nothing\n",
            "2\t0/5000000\tx\n",
            "1\t0/5\tx\n1\t0/6\tx\n",
        ] {
            assert_eq!(TimelineHistory::parse(2, text), None, "{text}");
        }
        assert_eq!(TimelineHistory::parse(3, "1\t0/5000000\tx\n2\t0/4000000\tx\n"), None);
    }
}
