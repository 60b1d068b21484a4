"""A BMC that answers real IPMI 2.0 over LAN on loopback: pyghmi's own, with DCMI power and cipher suite 17 added.

Usage: ipmi_bmc.py PORT SUITE STATE
STATE is a JSON file that is read again at every question: {"watts", "power", "measuring", "obeys", "busy", "operator"}.
Every order is added as a line to STATE.log.
"""

import hashlib
import hmac
import json
import sys
import types

import pyghmi.ipmi.bmc as bmc
import pyghmi.ipmi.private.serversession as serversession


class Session17(serversession.ServerSession):
    """The server's side of RAKP with HMAC-SHA256; pyghmi's server has SHA1 only."""

    def create_open_session_response(self, request):
        response = super().create_open_session_response(request)
        self.currhashlib = hashlib.sha256
        self.currhashlen = 16
        response[16], response[24] = 3, 4
        return response

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.currhashlib = hashlib.sha256
        self.currhashlen = 16

    def _send_rakp4(self, tag, status):
        super()._send_rakp4(tag, status)

    def send_payload(self, payload=(), payload_type=None, **kwargs):
        if payload_type == serversession.constants.payload_types["rakp4"]:
            code = hmac.new(self.sik, bytes(self.Rm + self.managedsessionid) + bytes(self.uuiddata), hashlib.sha256)
            payload = bytearray(payload[:8]) + code.digest()[:16]
        super().send_payload(payload, payload_type=payload_type, **kwargs)


class Bmc(bmc.Bmc):
    def __init__(self, port, state):
        super().__init__({"monitor": "hunter2-secret"}, port=port, address="127.0.0.1")
        self.state_file = state

    @property
    def state(self):
        with open(self.state_file) as file:
            return json.load(file)

    def order(self, name, power):
        with open(self.state_file + ".log", "a") as log:
            log.write(name + "\n")
        state = self.state
        if state.get("obeys", True):
            state["power"] = power
            with open(self.state_file, "w") as file:
                json.dump(state, file)

    def get_power_state(self):
        return self.state["power"]

    def power_off(self):
        self.order("off", "off")

    def power_on(self):
        self.order("on", "on")

    def power_cycle(self):
        self.order("cycle", "on")

    def power_reset(self):
        self.order("reset", "on")

    def power_shutdown(self):
        self.order("shutdown", "off")

    def handle_raw_request(self, request, session):
        state = self.state
        if state.get("busy", 0) > 0:
            state["busy"] -= 1
            with open(self.state_file, "w") as file:
                json.dump(state, file)
            return session.send_ipmi_response(code=0xC0)
        dcmi = request["netfn"] == 0x2C and len(request["data"]) > 0 and request["data"][0] == 0xDC
        if dcmi and state.get("operator") and session.clientpriv < 3:
            return session.send_ipmi_response(code=0xD4)
        if dcmi and "watts" in state and request["command"] == 0x02:
            data = bytearray([0xDC])
            for watts in (state["watts"], 100, 400, 250):
                data += int(watts).to_bytes(2, "little")
            data += (1700000000).to_bytes(4, "little") + (60000).to_bytes(4, "little")
            data.append(0x40 if state.get("measuring", True) else 0)
            return session.send_ipmi_response(data=data)
        if dcmi and request["command"] == 0x03:
            return session.send_ipmi_response(code=0x80)
        return super().handle_raw_request(request, session)


def main():
    port, suite, state = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    if suite == "17":
        serversession.ServerSession = Session17
        # The module computes every code with hashlib.sha1.
        serversession.hashlib = types.SimpleNamespace(sha1=hashlib.sha256)
    server = Bmc(port, state)
    print("listening", flush=True)
    server.listen()
    while True:
        server.listen()


main()
