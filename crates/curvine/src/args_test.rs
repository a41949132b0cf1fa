//! What is typed reaches the right field.

use clap::CommandFactory;

use super::*;

#[test]
fn no_command_contradicts_itself() {
    Curvine::command().debug_assert();
    Cv::command().debug_assert();
    FuseName::command().debug_assert();
    ServerName::command().debug_assert();
}

#[test]
fn the_names_of_old_take_their_old_arguments() {
    let fuse = FuseName::try_parse_from(["curvine-fuse", "--mnt-path", "/m", "--conf", "/c"]).unwrap();
    assert_eq!((fuse.mount.mnt_path, fuse.common.conf), (Some("/m".into()), Some("/c".into())));
    let server = ServerName::try_parse_from(["curvine-server", "--service", "worker", "--conf", "/c"]).unwrap();
    assert_eq!((server.service, server.command), (Some(Service::Worker), None));
    let server = ServerName::try_parse_from(["curvine-server", "master"]).unwrap();
    assert_eq!((server.service, server.command), (None, Some(Service::Master)));
    let mount =
        "cv mount s3://b/p /p --check-path-consist false -c s3.endpoint_url=http://x -c s3.credentials.access=a";
    let mount = Cv::try_parse_from(mount.split(' ')).unwrap();
    assert!(matches!(mount.command, CvCommand::Mount(UfsMountArgs { config, .. }) if config.len() == 2));
    let report = Cv::try_parse_from(["cv", "report", "json"]).unwrap();
    assert!(matches!(report.command, CvCommand::Tool(ToolCommand::Report { what: ReportKind::Json })));
}

#[test]
fn options_may_stand_before_and_after_the_command() {
    for line in ["cv --json --conf /c fs ls /", "cv fs ls / --json --conf /c", "cv fs --json ls --conf /c"] {
        let cv = Cv::try_parse_from(line.split(' ')).unwrap();
        assert!(cv.target.json && cv.common.conf == Some("/c".into()), "{line}");
    }
    let update = Cv::try_parse_from("cv mount --update /p -c secret=@f --ttl 1m".split(' ')).unwrap();
    assert!(
        matches!(update.command, CvCommand::Mount(UfsMountArgs { update: true, url: Some(path), .. }) if path == "/p")
    );
    let curvine = Curvine::try_parse_from(["curvine", "cv", "mount", "--json"]).unwrap();
    assert!(curvine.target.json);
}
