//! The S3 server as its users meet it: restic, rclone, s3cmd, the AWS command line and boto3, each driven by a script.
//!
//! A client that is not installed is skipped, and said so. `MUXFS_S3_PARTS_MIB` says how long what boto3 uploads is.

use std::{
    fs,
    process::{Command, Stdio},
};

use muxfs::testing::fault::Dice;

use crate::{Server, World, number_of, s3::world_of};

/// A world that serves buckets in this mount, with a directory `tree` to upload, and what a client needs to know.
struct Site {
    world: World,
    secret: String,
    server: Server,
}

impl Site {
    fn new(root: &str) -> Self {
        let (world, secret) = world_of(root);
        let tree = world.path("room/tree");
        fs::create_dir_all(tree.join("sub")).expect("made");
        let mut dice = Dice::new(9);
        let lens =
            [("nothing", 0), ("sub/short", 11), ("sub/a chunk", 1 << 20), ("sub/ünï +&", 70_000), ("long", 12 << 20)];
        for (name, len) in lens {
            fs::write(tree.join(name), dice.bytes(len)).expect("written");
        }
        for number in 0..40 {
            fs::write(tree.join(format!("sub/{number}")), dice.bytes(number * 100)).expect("written");
        }
        let server = world.serve(&["--s3", "127.0.0.1:0"]);
        Self { world, secret, server }
    }

    /// Runs a program in the room of the client; it has to succeed.
    fn run(&self, mut command: Command) {
        command
            .current_dir(self.world.path("room"))
            .stdin(Stdio::null())
            .env("ENDPOINT", format!("http://{}", self.server.addr("s3")))
            .env("AWS_ACCESS_KEY_ID", "ann")
            .env("AWS_SECRET_ACCESS_KEY", &self.secret)
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            // rclone 1.60 refuses S3 where it is set.
            .env_remove("AWS_CA_BUNDLE")
            .env("HOME", self.world.path("room"))
            .env("XDG_CACHE_HOME", self.world.path("room/cache"));
        let output = command.output().expect("it runs");
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told));
    }
}

/// Whether a program answers; where it does not it is skipped.
fn is_there(program: &str, args: &[&str]) -> bool {
    let answered =
        Command::new(program).args(args).stdin(Stdio::null()).output().is_ok_and(|told| told.status.success());
    if !answered {
        muxfs::testing::skip(format!("{program} {} does not answer: not installed?", args.join(" ")));
    }
    answered
}

fn drive(program: &str, version: &str, script: &str, root: &str) {
    if !is_there(program, &[version]) {
        return;
    }
    let site = Site::new(root);
    let mut shell = Command::new("bash");
    shell.args(["-euxo", "pipefail", "-c", script]);
    site.run(shell);
    assert_eq!(site.server.terminate(), Some(0));
}

#[test]
fn restic_backs_up_checks_and_restores() {
    drive("restic", "version", include_str!("s3_clients/restic.sh"), "/ipfs");
}

#[test]
fn rclone_syncs_both_ways() {
    drive("rclone", "version", include_str!("s3_clients/rclone.sh"), "/ipfs");
}

#[test]
fn s3cmd_puts_gets_and_removes() {
    drive("s3cmd", "--version", include_str!("s3_clients/s3cmd.sh"), "/ipfs");
}

#[test]
fn the_aws_command_line_puts_gets_and_removes() {
    drive("aws", "--version", include_str!("s3_clients/aws.sh"), "/ipfs");
}

#[test]
fn boto3_uploads_in_parts() {
    if !is_there("python3", &["-c", "import boto3"]) {
        return;
    }
    let site = Site::new("/ipfs");
    let script = site.world.path("room/parts.py");
    fs::write(&script, include_str!("s3_clients/boto3_parts.py")).expect("written");
    let mut python = Command::new("python3");
    python.arg(script).arg(number_of("MUXFS_S3_PARTS_MIB", 64).to_string());
    site.run(python);
    assert_eq!(site.server.terminate(), Some(0));
}
