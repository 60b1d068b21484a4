#!/usr/bin/env python3
"""Database hooks for one PostgreSQL (13 or later) with streaming replication: position, demote, prove-fenced, promote.

Run it beside the database of each site, as the user that owns its data directory; Python's standard library is all that
it needs. docs/database-hooks.md explains the contract. It keeps the highest token (epoch, step) that it has seen in a
file, written before anything is done and synced, and in the table `evergreen_fence`, which is replicated; a call below it
is refused with 409.

  postgresql.py --site dc-a --listen 10.1.0.5:8010 --data /var/lib/postgresql/15/main --port 5432 \\
      --bin /usr/lib/postgresql/15/bin --state /var/lib/evergreen/shop.pay.json \\
      --peer 'dc-b=host=10.2.0.5 port=5432 user=replicator' --synchronous \\
      --grant http://127.0.0.1:9464/grants/shop.pay

With --grant it watches the grant of its node and stops a primary that has had none for --grace seconds: a site that is cut
off fences itself. Without it, a cut-off primary goes on until the site is reached again, and the service's own clients
have to ask for the grant.
"""

import argparse
import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERBS = ("position", "demote", "prove-fenced", "promote")


class Refused(Exception):
    """An answer that is no yes: status and body."""

    def __init__(self, status, **body):
        super().__init__(body.get("message", ""))
        self.status, self.body = status, body


class Database:
    """One PostgreSQL, driven by its own programs."""

    def __init__(self, options):
        self.options = options
        self.peers = dict(peer.split("=", 1) for peer in options.peer)

    def run(self, program, *arguments, seconds=None):
        path = os.path.join(self.options.bin, program)
        done = subprocess.run([path, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              timeout=seconds or self.options.seconds, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def must(self, program, *arguments):
        code, text = self.run(program, *arguments)
        if code:
            raise Refused(500, message=f"{program}: {text.splitlines()[-1] if text else code}")
        return text

    def sql(self, statement):
        return self.must("psql", "-XAtq", "-h", self.options.socket, "-p", str(self.options.port), "-d",
                         self.options.database, "-v", "ON_ERROR_STOP=1", "-c", statement)

    def ctl(self, *arguments):
        # pg_ctl's child keeps the pipe open: its output goes to a file.
        log = os.path.join(os.path.dirname(self.options.state) or ".", "postgresql.log")
        path = os.path.join(self.options.bin, "pg_ctl")
        seconds = str(int(self.options.seconds))
        extra = ["-o", self.options.start_options] if arguments[0] == "start" and self.options.start_options else []
        done = subprocess.run([path, "-D", self.options.data, "-w", "-t", seconds, "-l", log, *arguments, *extra],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=self.options.seconds + 5, check=False)
        if done.returncode:
            raise Refused(500, message=f"pg_ctl {arguments[0]} failed; see {log}")

    def role(self):
        """primary, standby or stopped: the truth now, not what was once done."""
        if self.run("pg_ctl", "-D", self.options.data, "status")[0]:
            return "stopped"
        return "standby" if self.sql("SELECT pg_is_in_recovery()") == "t" else "primary"

    def control(self, line):
        found = re.search(rf"^{line}:\s+(.*)$", self.must("pg_controldata", self.options.data), re.M)
        return found.group(1) if found else ""

    def peer(self, site):
        """Connection string of another site's database."""
        known = self.peers.get(site)
        return f"{known} application_name={self.options.site} connect_timeout=3" if known else None

    def follow(self, site):
        """A stopped or standby database follows that of `site`; what it has beyond the fork is rewound."""
        upstream = self.peer(site)
        if not upstream:
            return
        if self.role() == "standby":
            if self.sql("SHOW primary_conninfo") != upstream:
                self.sql(f"ALTER SYSTEM SET primary_conninfo = '{upstream}'")
                self.sql("SELECT pg_reload_conf()")
            return
        source = f"{upstream} dbname={self.options.database}"
        if self.run("psql", "-XAtq", "-d", source, "-c", "SELECT pg_is_in_recovery()", seconds=5) == (0, "f"):
            # Nothing is rewound where nothing diverged.
            self.must("pg_rewind", "-D", self.options.data, "--source-server", source)
        elif self.control("Database cluster state") not in ("shut down", "shut down in recovery"):
            raise Refused(202, message=f"it crashed; it is rewound when {site} leads", role="stopped")
        with open(os.path.join(self.options.data, "postgresql.auto.conf"), "a", encoding="utf-8") as conf:
            conf.write(f"primary_conninfo = '{upstream}'\nrecovery_target_timeline = 'latest'\n")
        open(os.path.join(self.options.data, "standby.signal"), "w", encoding="utf-8").close()
        self.ctl("start")


class Hook:
    """The contract over one database."""

    def __init__(self, options):
        self.options, self.database, self.lock = options, Database(options), threading.RLock()
        try:
            with open(options.state, encoding="utf-8") as file:
                self.state = json.load(file)
        except FileNotFoundError:
            self.state = {"epoch": 0, "step": 0, "verb": "", "position": None}

    def fence(self, body, verb):
        """Raises the token, synced, before anything is done under it; refuses what is below."""
        token, kept = (body["epoch"], body["step"]), (self.state["epoch"], self.state["step"])
        if kept == (0, 0) and self.database.role() != "stopped":
            kept = max(kept, self.replicated())
        if token < kept or (token == kept and self.state["verb"] not in ("", verb)):
            raise Refused(409, epoch=kept[0], step=kept[1], message="it has seen a higher token")
        if token == kept and self.state["verb"] == verb:
            return
        self.keep(epoch=token[0], step=token[1], verb=verb, position=None)

    def keep(self, **changes):
        self.state = {**self.state, **changes}
        path = self.options.state
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(self.state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def replicated(self):
        """The token that came with the data, for a hook whose file is lost."""
        if self.database.sql("SELECT to_regclass('evergreen_fence') IS NULL") == "t":
            return (0, 0)
        found = self.database.sql("SELECT epoch || ' ' || step FROM evergreen_fence")
        return tuple(int(part) for part in found.split()) if found else (0, 0)

    def demote(self, body):
        self.fence(body, "demote")
        if self.database.role() == "primary":
            # A fast stop sends everything to the standbys that are connected, the end of the log included.
            self.database.ctl("stop", "-m", "fast")
            self.keep(position=self.database.control("Latest checkpoint location"))
        self.database.follow(body.get("holder", ""))
        return {"role": self.database.role(), "position": self.state["position"], "evidence": self.evidence()}

    def prove(self, body):
        role = self.database.role()
        return {"role": role, "fenced": role != "primary", "evidence": self.evidence(),
                "position": self.state["position"]}

    def evidence(self):
        role = self.database.role()
        if role == "stopped":
            return f"no server runs; cluster state: {self.database.control('Database cluster state')}"
        return f"pg_is_in_recovery() = {'t' if role == 'standby' else 'f'}"

    def promote(self, body):
        self.fence(body, "promote")
        if self.database.role() == "stopped":
            self.database.ctl("start")
        if self.database.role() == "standby":
            if self.database.sql(f"SELECT pg_promote(true, {int(self.options.seconds)})") != "t":
                raise Refused(202, message="it is being promoted")
        token = (body["epoch"], body["step"])
        # Waiting for a synchronous standby here would wait for the site that is lost.
        self.database.sql("SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS evergreen_fence"
                          " (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL, step int NOT NULL)")
        self.database.sql("SET synchronous_commit = local; INSERT INTO evergreen_fence (epoch, step) VALUES"
                          f" ({token[0]}, {token[1]}) ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch,"
                          " step = excluded.step")
        return {"role": self.database.role(), "position": self.database.sql("SELECT pg_current_wal_flush_lsn()"),
                "evidence": self.evidence()}

    def position(self, _):
        role = self.database.role()
        if role == "primary":
            # What no synchronous standby has yet was acknowledged to nobody.
            acknowledged = "SELECT COALESCE(min(flush_lsn) FILTER (WHERE sync_state IN ('sync', 'quorum'))," \
                           " pg_current_wal_flush_lsn()) FROM pg_stat_replication"
            return {"role": role, "leads": True, "lagSeconds": 0, "complete": True,
                    "position": self.database.sql(acknowledged)}
        if role == "stopped":
            raise Refused(503, message="the database does not run")
        received, behind = self.database.sql(
            "SELECT COALESCE(GREATEST(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0') || ' ' || CASE"
            " WHEN pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() THEN 0"
            " ELSE COALESCE(EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()), 86400) END").split()
        return {"role": role, "leads": False, "lagSeconds": max(0.0, float(behind)), "position": received,
                "complete": self.options.synchronous}

    def call(self, verb, body):
        for key in ("epoch", "step"):
            if verb != "position" and not isinstance(body.get(key), int):
                raise Refused(400, message=f"`{key}` is no number")
        act = {"position": self.position, "demote": self.demote, "prove-fenced": self.prove, "promote": self.promote}
        with self.lock:
            answer = act[verb](body)
        return {"epoch": body.get("epoch"), "step": body.get("step"), **answer}

    def watch(self):
        """Stops a primary whose node has had no grant for too long."""
        last = time.monotonic()
        while True:
            try:
                with urllib.request.urlopen(self.options.grant, timeout=1) as answer:
                    granted = answer.status == 200
            except OSError:
                granted = False
            now = time.monotonic()
            last = now if granted else last
            try:
                if now - last > self.options.grace and self.database.role() == "primary":
                    print(f"no grant for {now - last:.1f} s: the database is stopped", flush=True)
                    with self.lock:
                        self.database.ctl("stop", "-m", "fast")
            except (Refused, subprocess.TimeoutExpired) as error:
                print(f"the database cannot be stopped: {error}", flush=True)
            time.sleep(0.5)


class Server(BaseHTTPRequestHandler):
    """POST <anything>/<verb> with a JSON object."""

    hook = None
    timeout = 10

    def do_POST(self):
        verb = self.path.rstrip("/").rsplit("/", 1)[-1]
        try:
            if verb not in VERBS:
                raise Refused(404, message="position, demote, prove-fenced or promote")
            length = min(int(self.headers.get("content-length", 0)), 65536)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, answer = 200, self.hook.call(verb, body)
        except Refused as refused:
            status, answer = refused.status, refused.body
        except (ValueError, AttributeError) as error:
            status, answer = 400, {"message": f"no JSON object: {error}"}
        except subprocess.TimeoutExpired as error:
            status, answer = 202, {"message": f"still at it: {error.cmd[0]}"}
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--site", required=True)
    options.add_argument("--listen", default="127.0.0.1:8010", help="host:port; let only the controllers reach it")
    options.add_argument("--data", required=True, help="data directory")
    options.add_argument("--bin", default="/usr/lib/postgresql/15/bin")
    options.add_argument("--port", type=int, default=5432)
    options.add_argument("--socket", default="/var/run/postgresql", help="folder of its socket, or a host")
    options.add_argument("--database", default="postgres")
    options.add_argument("--start-options", help="options of the server, as pg_ctl -o takes them; on Debian "
                                                 "'-c config_file=/etc/postgresql/15/main/postgresql.conf'")
    options.add_argument("--state", required=True, help="file in which the highest token is kept")
    options.add_argument("--peer", action="append", default=[], metavar="SITE=CONNECTION")
    options.add_argument("--synchronous", action="store_true",
                         help="no commit is ever acknowledged before every standby that may be promoted has it "
                              "(synchronous_standby_names): then a standby may vouch that nothing is missing")
    options.add_argument("--seconds", type=float, default=20, help="bound of one step")
    options.add_argument("--grant", help="URL of the node's grant")
    options.add_argument("--grace", type=float, default=10, help="seconds without a grant until a primary is stopped")
    options = options.parse_args()
    Server.hook = Hook(options)
    if options.grant:
        threading.Thread(target=Server.hook.watch, daemon=True).start()
    host, port = options.listen.rsplit(":", 1)
    print(f"hooks of {options.site} at {options.listen}", flush=True)
    ThreadingHTTPServer((host, int(port)), Server).serve_forever()


if __name__ == "__main__":
    main()
