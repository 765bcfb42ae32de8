//! The control groups this process is in, as far as they limit memory: Linux's cgroups, v1 and v2.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where the groups stand that this process is in.
const OWN_GROUPS: &str = "/proc/self/cgroup";
/// Where groups are mounted.
const MOUNTS: &str = "/proc/self/mountinfo";

/// A control group that limits memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimit {
    /// Bytes its processes may take together, what is cached of files included.
    pub limit: u64,
    /// Bytes that its processes hold and that cannot be evicted: this one's and others'.
    pub held: u64,
}

impl GroupLimit {
    /// Bytes left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.held)
    }
}

/// The group around this process that leaves it least; `None` where none limits memory or the
/// system knows none.
#[must_use]
pub(super) fn tightest() -> Option<GroupLimit> {
    let own = fs::read_to_string(OWN_GROUPS).ok()?;
    let mounts = fs::read_to_string(MOUNTS).ok()?;
    let read = |path: &Path| fs::read_to_string(path).ok();
    memory_groups(&own, &mounts).iter().filter_map(|place| place.tightest(&read)).min_by_key(left)
}

fn left(limit: &GroupLimit) -> u64 {
    limit.left()
}

/// The two generations of control groups, which name things differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }

    /// Fields of `memory.stat` that add up to what cannot be evicted.
    fn held_fields(self) -> &'static [&'static str] {
        match self {
            Self::V1 => &["total_rss", "total_shmem"],
            Self::V2 => &["anon", "shmem", "kernel"],
        }
    }
}

/// Where a hierarchy is mounted, and where in it this process stands.
#[derive(Debug, PartialEq, Eq)]
struct GroupPlace {
    version: Version,
    mounted: PathBuf,
    /// Below `mounted`.
    group: PathBuf,
}

impl GroupPlace {
    /// The group that leaves least, among this one and those around it.
    fn tightest(&self, read: &impl Fn(&Path) -> Option<String>) -> Option<GroupLimit> {
        let levels = self.group.ancestors().map(|group| self.mounted.join(group));
        levels.filter_map(|folder| self.limit_in(&folder, read)).min_by_key(left)
    }

    fn limit_in(
        &self,
        folder: &Path,
        read: &impl Fn(&Path) -> Option<String>,
    ) -> Option<GroupLimit> {
        let limit = parse_limit(&read(&folder.join(self.version.limit_file()))?)?;
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        Some(GroupLimit { limit, held: parse_held(&stat, self.version) })
    }
}

/// A limit in bytes; `None` for none, which v2 calls `max` and v1 a number near 2^63.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

fn parse_held(stat: &str, version: Version) -> u64 {
    let field = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        version.held_fields().contains(&name).then(|| value.trim().parse::<u64>().ok())?
    };
    stat.lines().filter_map(field).fold(0, u64::saturating_add)
}

/// The hierarchies with a memory controller, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn memory_groups(own: &str, mounts: &str) -> Vec<GroupPlace> {
    let mut places = Vec::new();
    for line in own.lines() {
        // hierarchy number : controllers : path
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => Version::V2,
            some if some.split(',').any(|name| name == "memory") => Version::V1,
            _ => continue,
        };
        let mount = mounts.lines().find_map(|line| parse_mount(line, version));
        let Some((root, mounted)) = mount else { continue };
        // In a container the mount may show only a part of the hierarchy, at `root`.
        let path = Path::new(path);
        let below = path.strip_prefix(&root).unwrap_or(Path::new(""));
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        let group = if plain { below.to_owned() } else { PathBuf::new() };
        places.push(GroupPlace { version, mounted, group });
    }
    places
}

/// Root and mount point, if a line of `mountinfo` is a hierarchy of that version with memory in it.
fn parse_mount(line: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    // id parent device root mount-point options [optional ...] - type source super-options
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let (kind, options) = (after.next()?, after.nth(1)?);
    let fits = match version {
        Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => kind == "cgroup2",
    };
    let mut before = before.split(' ').skip(3);
    let (root, mounted) = (before.next()?, before.next()?);
    fits.then(|| (unescaped(root), unescaped(mounted)))
}

/// A path of `mountinfo`, in which white space and backslashes are written `\040`.
fn unescaped(path: &str) -> PathBuf {
    let mut text = path.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const V1: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid,relatime shared:12 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const V2: &str =
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
    /// The mount shows the hierarchy from the container's group on.
    const CONTAINER: &str =
        "900 880 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";

    fn place(version: Version, mounted: &str, group: &str) -> GroupPlace {
        GroupPlace { version, mounted: mounted.into(), group: group.into() }
    }

    #[test]
    fn the_memory_hierarchy_is_found() {
        let own = "5:cpu,cpuacct:/a\n4:memory:/jobs/one\n0::/\n";
        let expected = [
            place(Version::V1, "/sys/fs/cgroup/memory", "jobs/one"),
            place(Version::V2, "/sys/fs/cgroup/unified", ""),
        ];
        assert_eq!(memory_groups(own, V1), expected);
        let own = "0::/user.slice/my job:1.scope\n";
        let expected = [place(Version::V2, "/sys/fs/cgroup", "user.slice/my job:1.scope")];
        assert_eq!(memory_groups(own, V2), expected);
    }

    #[test]
    fn a_container_sees_a_part_of_the_hierarchy() {
        let memory = "/sys/fs/cgroup/memory";
        let inner = memory_groups("4:memory:/docker/abc/inner\n", CONTAINER);
        assert_eq!(inner, [place(Version::V1, memory, "inner")]);
        for elsewhere in ["/", "/other", "/../sibling"] {
            let groups = memory_groups(&format!("4:memory:{elsewhere}\n"), CONTAINER);
            assert_eq!(groups, [place(Version::V1, memory, "")], "{elsewhere}");
        }
        assert_eq!(memory_groups("0::/../../x\n", V2), [place(Version::V2, "/sys/fs/cgroup", "")]);
    }

    #[test]
    fn the_group_that_leaves_least_counts() {
        let files = BTreeMap::from([
            ("/m/memory.max", "max\n"),
            ("/m/a/memory.max", "1000\n"),
            ("/m/a/memory.stat", "anon 100\nfile 500\nkernel 11\nshmem 5\nanon_thp 7\n"),
            ("/m/a/b/memory.max", "900\n"),
            ("/m/a/b/memory.stat", "anon 1\n"),
            ("/m/a/b/c/memory.max", "max\n"),
        ]);
        let read = |path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned());
        let tightest = place(Version::V2, "/m", "a/b/c").tightest(&read);
        assert_eq!(tightest, Some(GroupLimit { limit: 1000, held: 116 }));
        assert_eq!(tightest.unwrap().left(), 884);
        assert_eq!(place(Version::V2, "/m", "").tightest(&read), None);
    }

    #[test]
    fn version_1_has_names_of_its_own_and_a_number_for_no_limit() {
        let files = BTreeMap::from([
            ("/m/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/m/a/memory.limit_in_bytes", "536870912\n"),
            ("/m/a/memory.stat", "cache 7\nrss 1\ntotal_cache 9\ntotal_rss 4096\ntotal_shmem 1\n"),
        ]);
        let read = |path: &Path| files.get(path.to_str()?).map(|text| (*text).to_owned());
        let tightest = place(Version::V1, "/m", "a").tightest(&read);
        assert_eq!(tightest, Some(GroupLimit { limit: 512 << 20, held: 4097 }));
        assert_eq!(GroupLimit { limit: 5, held: 6 }.left(), 0);
    }

    #[test]
    fn escaped_paths_are_read() {
        let line = "31 25 0:27 / /mnt/my\\040groups rw - cgroup cgroup rw,memory\n";
        let groups = memory_groups("4:memory:/\n", line);
        assert_eq!(groups, [place(Version::V1, "/mnt/my groups", "")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_taken(own in "(?s).{0,60}", mounts in "(?s).{0,80}", n in 0_usize..120) {
            let lines = format!("{V1}{V2}{CONTAINER}");
            let cut: String = lines.chars().skip(n).collect();
            for mounts in [mounts, cut] {
                for place in memory_groups(&format!("0::/a\n3:memory:{own}"), &mounts) {
                    let _ = place.tightest(&|_| Some(own.clone()));
                }
            }
        }
    }
}
