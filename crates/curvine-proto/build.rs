//! Compiles the .proto files with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/common.proto",
        "proto/log.proto",
        "proto/master.proto",
        "proto/worker.proto",
        "proto/rpc.proto",
        "proto/raft.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // What records of the metadata contain must have a portable form, too.
    for message in ["UfsMountSettings", "Extent"] {
        let name = format!(".curvine.v1.{message}");
        config.type_attribute(name, "#[derive(serde::Serialize, serde::Deserialize)]\n#[serde(default)]");
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
