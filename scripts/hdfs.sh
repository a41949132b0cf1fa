#!/usr/bin/env bash
# Runs a command beside a real HDFS, one NameNode and one DataNode, and ends both after it:
#   scripts/hdfs.sh COMMAND...    with HDFS_TEST_URL=hdfs://127.0.0.1:PORT and HDFS_TEST_WEB=127.0.0.1:PORT in its environment
# The servers' classes (Hadoop 2.7.3) come with the source package of pyspark on PyPI, which is kept in
# ${CURVINE_TOOLS:-$HOME/.cache/curvine-tools}/hdfs; Java and the parts that WebHDFS needs come from Debian, where they are missing.
set -euo pipefail

tools="${CURVINE_TOOLS:-$HOME/.cache/curvine-tools}/hdfs"
pyspark=2.4.8

missing=()
command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
command -v python3 >/dev/null || missing+=(python3-venv)
for part in core server servlet; do
    [[ -e /usr/share/java/jersey1-$part.jar ]] || missing+=("libjersey1-$part-java")
done
[[ -e /usr/share/java/jaxb-api.jar ]] || missing+=(libjaxb-api-java)
[[ -e /usr/share/java/jsr311-api.jar ]] || missing+=(libjsr311-api-java)
if ((${#missing[@]})); then
    if ! command -v apt-get >/dev/null || ((EUID != 0)); then
        echo "missing: ${missing[*]}; install them (apt-get install ${missing[*]}, as root) and try again" >&2
        exit 1
    fi
    apt-get update >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >&2
fi

jars="commons-beanutils-1.9.4 commons-cli-1.2 commons-codec-1.10 commons-collections-3.2.2 commons-compress-1.20
    commons-configuration-1.6 commons-digester-1.8 commons-httpclient-3.1 commons-io-2.4 commons-lang-2.6 commons-lang3-3.5
    commons-logging-1.1.3 commons-math3-3.4.1 commons-net-3.1 guava-14.0.1 hadoop-annotations-2.7.3 hadoop-auth-2.7.3
    hadoop-common-2.7.3 hadoop-hdfs-2.7.3 htrace-core-3.1.0-incubating httpclient-4.5.6 httpcore-4.4.10 jackson-core-asl-1.9.13 jackson-mapper-asl-1.9.13
    javax.annotation-api-1.2 javax.servlet-api-3.1.0 jetty-6.1.26 jetty-util-6.1.26 leveldbjni-all-1.8
    log4j-1.2.17 netty-3.9.9.Final netty-all-4.1.47.Final protobuf-java-2.5.0 slf4j-api-1.7.16 slf4j-log4j12-1.7.16
    xercesImpl-2.9.1"
if [[ ! -e $tools/complete ]]; then
    rm -rf "$tools" && mkdir -p "$tools/jars"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" -q install wheel setuptools >&2
    "$tools/venv/bin/pip" -q download --no-deps --no-binary :all: --no-build-isolation "pyspark==$pyspark" -d "$tools/package" >&2
    names=()
    for jar in $jars; do names+=("pyspark-$pyspark/deps/jars/$jar.jar"); done
    tar -xzf "$tools/package/pyspark-$pyspark.tar.gz" -C "$tools/jars" --strip-components 3 "${names[@]}"
    rm -rf "$tools/package" "$tools/venv"
    touch "$tools/complete"
fi

# shellcheck source=scripts/servers.sh
source "$(dirname "${BASH_SOURCE[0]}")/servers.sh"

property() {
    echo "<property><name>$1</name><value>$2</value></property>"
}

rpc=$(free_port) web=$(free_port)
mkdir -p "$dir/conf/webapps"/{hdfs,datanode,secondary,static}/WEB-INF
for app in "$dir/conf/webapps"/*; do echo '<web-app/>' >"$app/WEB-INF/web.xml"; done
cat >"$dir/conf/log4j.properties" <<END
log4j.rootLogger=WARN,C
log4j.appender.C=org.apache.log4j.ConsoleAppender
log4j.appender.C.layout=org.apache.log4j.PatternLayout
log4j.appender.C.layout.ConversionPattern=%d %p %c{1}: %m%n
END
{
    echo '<configuration>'
    property fs.defaultFS "hdfs://127.0.0.1:$rpc"
    property hadoop.tmp.dir "$dir/tmp"
    echo '</configuration>'
} >"$dir/conf/core-site.xml"
{
    echo '<configuration>'
    property dfs.replication 1
    property dfs.namenode.name.dir "file://$dir/name"
    property dfs.datanode.data.dir "file://$dir/data"
    property dfs.webhdfs.enabled "${HDFS_WEB:-true}"
    property dfs.namenode.http-address "127.0.0.1:$web"
    property dfs.datanode.address "127.0.0.1:$(free_port)"
    property dfs.datanode.http.address "127.0.0.1:$(free_port)"
    property dfs.datanode.ipc.address "127.0.0.1:$(free_port)"
    # Short, so that files have several.
    property dfs.namenode.fs-limits.min-block-size 1048576
    property dfs.blocksize 4194304
    property dfs.ls.limit 100
    echo '</configuration>'
} >"$dir/conf/hdfs-site.xml"

debian=/usr/share/java
export CLASSPATH="$dir/conf:$debian/jsr311-api.jar:$debian/jersey1-core.jar:$debian/jersey1-server.jar:$debian/jersey1-servlet.jar:$debian/jaxb-api.jar:$tools/jars/*"
flags=(-Xmx256m --add-exports java.security.jgss/sun.security.krb5=ALL-UNNAMED)
for package in java.base/java.lang java.base/sun.nio.ch java.base/java.nio java.base/jdk.internal.ref java.security.jgss/sun.security.krb5; do
    flags+=(--add-opens "$package=ALL-UNNAMED")
done
server=org.apache.hadoop.hdfs.server

java "${flags[@]}" $server.namenode.NameNode -format -force >"$dir/format.log" 2>&1 || { cat "$dir/format.log" >&2; exit 1; }
java "${flags[@]}" $server.namenode.NameNode >"$dir/name.log" 2>&1 &
pids+=($!)
java "${flags[@]}" $server.datanode.DataNode >"$dir/data.log" 2>&1 &
pids+=($!)

# Until a DataNode is there and the NameNode has left its safe mode.
ready() {
    java "${flags[@]}" org.apache.hadoop.hdfs.tools.DFSAdmin -report >"$dir/report.log" 2>&1 && grep -q 'Live datanodes (1)' "$dir/report.log" \
        && java "${flags[@]}" org.apache.hadoop.hdfs.tools.DFSAdmin -safemode get 2>/dev/null | grep -q OFF
}
for _ in {1..60}; do
    ready && break
    kill -0 "${pids[0]}" "${pids[1]}" || break
    sleep 1
done
if ! ready; then
    echo "the HDFS does not start:" >&2
    tail -n 40 "$dir/name.log" "$dir/data.log" "$dir/report.log" >&2
    exit 1
fi

export HDFS_TEST_URL="hdfs://127.0.0.1:$rpc" HDFS_TEST_WEB="127.0.0.1:$web"
"$@"
