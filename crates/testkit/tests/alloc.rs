//! The counting allocator, installed: counts across threads, and what a forbidden request does.

use std::process::Command;

use lowtide_testkit::alloc::{Request, TestAlloc};

#[global_allocator]
static ALLOC: TestAlloc = TestAlloc::new();

#[test]
fn counts_requests_of_other_threads() {
    let (_, counts) = ALLOC.counting(1 << 20, || {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| std::hint::black_box(vec![0_u8; 2 << 20]));
            }
        });
    });
    assert_eq!(counts.large, 3);
    assert!(counts.live_peak >= 2 << 20);
    assert_eq!(counts.largest().next(), Some(Request { size: 2 << 20, align: 1 }));
}

#[test]
fn restarting_counts_from_zero() {
    let turn = ALLOC.count(4096);
    drop(std::hint::black_box(Vec::<u64>::with_capacity(1000)));
    assert_eq!(turn.restart().largest().next(), Some(Request { size: 8000, align: 8 }));
    assert_eq!(turn.counts().large, 0);
}

#[test]
fn small_requests_pass_while_large_ones_are_forbidden() {
    let (length, counts) = ALLOC.forbidding(4096, || {
        let small = std::hint::black_box(vec![1_u8; 100]);
        small.len()
    });
    assert_eq!(length, 100);
    assert_eq!(counts.large, 0);
    assert!(counts.requests >= 1);
}

#[test]
#[ignore = "ends its process: run by the test below in a process of its own"]
fn allocate_what_is_forbidden() {
    ALLOC.forbidding(4096, || std::hint::black_box(vec![1_u8; 5000]));
}

#[test]
fn a_forbidden_request_ends_the_process_and_says_where() {
    let this_binary = std::env::current_exe().unwrap();
    let output = Command::new(this_binary)
        .args(["--exact", "allocate_what_is_forbidden", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(stderr.contains("forbidden allocation of 5000 bytes (alignment 1;"), "{stderr}");
    assert!(stderr.contains("allocate_what_is_forbidden"), "the backtrace names it: {stderr}");
}
