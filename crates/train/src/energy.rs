//! What the machine draws while a run goes on, where the system counts it: RAPL in powercap, or
//! else a sensor of hwmon. It is the whole machine's, or its processor's, whatever else runs on it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Where Linux shows classes of devices.
const CLASSES: &str = "/sys/class";

/// Drivers of hwmon whose sensors are of a device that takes no part in a run.
const OTHERS: [&str; 6] = ["amdgpu", "radeon", "nouveau", "i915", "xe", "nvme"];

/// A count of joules since it was made. What cannot be read counts as nothing.
#[derive(Debug)]
pub(crate) struct Meter {
    sensors: Vec<Sensor>,
    source: Option<&'static str>,
    /// When power was read last.
    since: Instant,
    joules: f64,
}

#[derive(Debug)]
struct Sensor {
    file: File,
    kind: Kind,
    /// The last reading.
    last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Microjoules, from 0 again beyond a limit, if it is known.
    Energy(Option<u64>),
    /// Microwatts.
    Power,
}

impl Meter {
    /// Over the counters that this system lets this process read.
    pub(crate) fn of_system() -> Self {
        Self::of(Path::new(CLASSES))
    }

    /// Over the counters in a folder like `/sys/class`: the processor's packages that RAPL counts;
    /// else what sensors of hwmon count; else the power that they show, taken to be steady from
    /// reading to reading.
    fn of(classes: &Path) -> Self {
        let hwmon = folders(&classes.join("hwmon"), |_| true);
        let found = [
            ("rapl", packages(&classes.join("powercap"))),
            ("hwmon energy", first(&hwmon, "energy")),
            ("hwmon power", first(&hwmon, "power")),
        ];
        let found = found.into_iter().find(|(_, sensors)| !sensors.is_empty());
        let (source, sensors) = found.map_or((None, Vec::new()), |(name, all)| (Some(name), all));
        Self { sensors, source, since: Instant::now(), joules: 0.0 }
    }

    /// Counts what was drawn since the last reading, or, unless `count`, forgets it.
    pub(crate) fn read(&mut self, count: bool) {
        if self.sensors.is_empty() {
            return;
        }
        let now = Instant::now();
        let seconds = now.duration_since(std::mem::replace(&mut self.since, now)).as_secs_f64();
        for sensor in &mut self.sensors {
            let Some(reading) = number(&mut sensor.file) else { continue };
            let last = std::mem::replace(&mut sensor.last, reading);
            if count {
                self.joules += 1e-6 * drawn(sensor.kind, last, reading, seconds);
            }
        }
    }

    /// Joules so far; `None` where the system counts none.
    pub(crate) fn joules(&self) -> Option<f64> {
        self.source.map(|_| self.joules)
    }

    /// What counts them.
    pub(crate) fn source(&self) -> Option<&'static str> {
        self.source
    }
}

/// Microjoules between two readings.
fn drawn(kind: Kind, last: u64, reading: u64, seconds: f64) -> f64 {
    match kind {
        Kind::Power => (last as f64 + reading as f64) / 2.0 * seconds,
        Kind::Energy(_) if reading >= last => (reading - last) as f64,
        // Past its limit it began again, once: it takes longer to get there than an update does.
        Kind::Energy(Some(limit)) if limit >= last => (limit - last) as f64 + reading as f64,
        Kind::Energy(_) => 0.0,
    }
}

/// RAPL's packages. Domains inside them, `intel-rapl:0:1`, are part of them, and so are packages of
/// a second interface, `intel-rapl-mmio:0`; the platform as a whole, `psys`, counts where there are
/// no packages.
fn packages(powercap: &Path) -> Vec<Sensor> {
    let top = |name: &str| name.strip_prefix("intel-rapl:").is_some_and(|rest| !rest.contains(':'));
    let domains = folders(powercap, top);
    let named = |start: &str| -> Vec<Sensor> {
        let of = |folder: &&PathBuf| line(&folder.join("name")).starts_with(start);
        let sensor = |folder: &PathBuf| {
            let limit = line(&folder.join("max_energy_range_uj")).parse().ok();
            sensor(&folder.join("energy_uj"), Kind::Energy(limit))
        };
        domains.iter().filter(of).filter_map(sensor).collect()
    };
    let packages = named("package");
    if packages.is_empty() { named("psys") } else { packages }
}

/// The sensors `energy*_input` or `power*_input` of the first device that has any: the one that
/// says it is the total, or all of them.
fn first(devices: &[PathBuf], what: &str) -> Vec<Sensor> {
    let kind = if what == "energy" { Kind::Energy(None) } else { Kind::Power };
    let of = |device: &PathBuf| {
        let mut all = Vec::new();
        for number in 1..=64 {
            let label = line(&device.join(format!("{what}{number}_label"))).to_lowercase();
            let path = device.join(format!("{what}{number}_input"));
            match sensor(&path, kind) {
                Some(total) if label.contains("total") => return vec![total],
                // Cores are counted in their socket.
                Some(_) if label.starts_with("ecore") => {}
                some => all.extend(some),
            }
        }
        all
    };
    let ours = |device: &PathBuf| !OTHERS.contains(&line(&device.join("name")).as_str());
    devices
        .iter()
        .filter(|device| ours(device))
        .map(of)
        .find(|all| !all.is_empty())
        .unwrap_or_default()
}

/// Folders in a folder, in the order of their names.
fn folders(parent: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// A sensor that can be read.
fn sensor(path: &Path, kind: Kind) -> Option<Sensor> {
    let mut file = File::open(path).ok()?;
    let last = number(&mut file)?;
    Some(Sensor { file, kind, last })
}

/// The first line of a small file, or nothing.
fn line(path: &Path) -> String {
    let mut bytes = [0; 64];
    let read = File::open(path).and_then(|mut file| file.read(&mut bytes)).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The number that a file holds. Allocates nothing.
fn number(file: &mut File) -> Option<u64> {
    let mut bytes = [0; 32];
    file.seek(SeekFrom::Start(0)).ok()?;
    let read = file.read(&mut bytes).ok()?;
    std::str::from_utf8(&bytes[..read]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder like `/sys/class`.
    struct Classes(tempfile::TempDir);

    impl Classes {
        fn of(files: &[(&str, &str)]) -> Self {
            let classes = Self(tempfile::tempdir().unwrap());
            files.iter().for_each(|(path, text)| classes.set(path, text));
            classes
        }

        fn set(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        }

        fn meter(&self) -> Meter {
            Meter::of(self.0.path())
        }
    }

    #[test]
    fn packages_are_counted_once_and_past_their_limit() {
        let classes = Classes::of(&[
            ("powercap/intel-rapl/enabled", "1"),
            ("powercap/intel-rapl:0/name", "package-0"),
            ("powercap/intel-rapl:0/energy_uj", "1000000"),
            ("powercap/intel-rapl:0/max_energy_range_uj", "9000000"),
            ("powercap/intel-rapl:0:0/name", "core"),
            ("powercap/intel-rapl:0:0/energy_uj", "500000"),
            ("powercap/intel-rapl:1/name", "package-1"),
            ("powercap/intel-rapl:1/energy_uj", "8000000"),
            ("powercap/intel-rapl:1/max_energy_range_uj", "9000000"),
            ("powercap/intel-rapl:2/name", "psys"),
            ("powercap/intel-rapl:2/energy_uj", "1"),
            ("powercap/intel-rapl-mmio:0/name", "package-0"),
            ("powercap/intel-rapl-mmio:0/energy_uj", "1"),
            ("hwmon/hwmon0/power1_input", "7"),
        ]);
        let mut meter = classes.meter();
        assert_eq!((meter.source(), meter.sensors.len()), (Some("rapl"), 2));
        meter.read(true);
        assert_eq!(meter.joules(), Some(0.0));
        classes.set("powercap/intel-rapl:0/energy_uj", "3500000");
        classes.set("powercap/intel-rapl:1/energy_uj", "1000000");
        meter.read(true);
        assert!((meter.joules().unwrap() - (2.5 + 2.0)).abs() < 1e-9, "{meter:?}");
        // A pause.
        classes.set("powercap/intel-rapl:0/energy_uj", "5000000");
        meter.read(false);
        assert!((meter.joules().unwrap() - 4.5).abs() < 1e-9, "{meter:?}");
        classes.set("powercap/intel-rapl:0/energy_uj", "gone");
        meter.read(true);
        assert!((meter.joules().unwrap() - 4.5).abs() < 1e-9, "{meter:?}");
    }

    #[test]
    fn the_platform_counts_where_there_are_no_packages() {
        let classes = Classes::of(&[
            ("powercap/intel-rapl:1/name", "psys"),
            ("powercap/intel-rapl:1/energy_uj", "1"),
        ]);
        assert_eq!(classes.meter().source(), Some("rapl"));
    }

    #[test]
    fn sensors_count_energy_before_power_and_a_total_before_parts() {
        let classes = Classes::of(&[
            ("hwmon/hwmon0/name", "nvme"),
            ("hwmon/hwmon0/energy1_input", "1"),
            ("hwmon/hwmon1/name", "ina"),
            ("hwmon/hwmon1/power1_input", "2000000"),
            ("hwmon/hwmon2/name", "amd_energy"),
            ("hwmon/hwmon2/energy1_label", "Ecore000"),
            ("hwmon/hwmon2/energy1_input", "10"),
            ("hwmon/hwmon2/energy2_label", "Esocket0"),
            ("hwmon/hwmon2/energy2_input", "1000000"),
        ]);
        let mut meter = classes.meter();
        assert_eq!((meter.source(), meter.sensors.len()), (Some("hwmon energy"), 1));
        classes.set("hwmon/hwmon2/energy2_input", "4000000");
        meter.read(true);
        assert!((meter.joules().unwrap() - 3.0).abs() < 1e-9, "{meter:?}");
        // It has no limit that is known: what it lost is not guessed.
        classes.set("hwmon/hwmon2/energy2_input", "5");
        meter.read(true);
        assert!((meter.joules().unwrap() - 3.0).abs() < 1e-9, "{meter:?}");

        let classes = Classes::of(&[
            ("hwmon/hwmon0/power1_label", "CPU"),
            ("hwmon/hwmon0/power1_input", "2000000"),
            ("hwmon/hwmon0/power3_label", "Total System Power"),
            ("hwmon/hwmon0/power3_input", "5000000"),
        ]);
        let meter = classes.meter();
        assert_eq!((meter.source(), meter.sensors.len()), (Some("hwmon power"), 1));
        assert_eq!(meter.sensors[0].last, 5_000_000);
    }

    #[test]
    fn power_is_steady_between_readings() {
        assert_eq!(drawn(Kind::Power, 2_000_000, 4_000_000, 10.0), 30e6);
        assert_eq!(drawn(Kind::Energy(Some(100)), 90, 5, 1.0), 15.0);
        assert_eq!(drawn(Kind::Energy(Some(50)), 90, 5, 1.0), 0.0);
    }

    #[test]
    fn a_system_that_counts_nothing_is_no_trouble() {
        let classes = Classes::of(&[("powercap/intel-rapl:0/energy_uj", "none of it")]);
        let mut meter = classes.meter();
        meter.read(true);
        assert_eq!((meter.joules(), meter.source()), (None, None));
        let mut meter = Meter::of(&classes.0.path().join("absent"));
        meter.read(true);
        assert_eq!(meter.joules(), None);
        // Whatever this machine has.
        Meter::of_system().read(true);
    }
}
