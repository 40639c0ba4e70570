"""The grammar of HTTP/1.1 messages as patterns, each under the rule it comes from.

Where a pattern is stricter than the RFC the comment says so. Nothing here is more lenient.
"""

from __future__ import annotations

import re

# RFC 9110 section 5.6.2: token = 1*tchar
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9112 section 5: field-line = field-name ":" OWS field-value OWS. No white space before the
# colon (section 5.1) and none at the start of the line, which would be obsolete folding (5.2).
# RFC 9110 section 5.5: the value is VCHAR, obs-text, SP and HTAB. CR, LF and NUL are dangerous and
# must be refused; the other controls are invalid, and are refused here as well.
# The value begins and ends with a visible character and the white space before it is possessive:
# the match never tries two ways to share out a run of spaces, so its time is linear.
FIELD_LINE = re.compile(
    rb"("
    + TOKEN
    + rb"):[ \t]*+((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)

# RFC 9112 section 3: request-line = method SP request-target SP HTTP-version, single spaces.
# RFC 3986 has no "#" (fragment) and no backslash in what goes on the wire; other visible ASCII is
# let through, as browsers send some of it ("|", "{", "^") unescaped in queries.
TARGET_CHAR = rb"[\x21\x22\x24-\x5b\x5d-\x7e]"
# CONNECT takes no origin-form (RFC 9112 section 3.2.3).
ORIGIN_FORM = re.compile(rb"(?!CONNECT )(" + TOKEN + rb") (/" + TARGET_CHAR + rb"*) HTTP/1\.1")
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") (" + TARGET_CHAR + rb"+) HTTP/([0-9])\.([0-9])")

# RFC 9112 section 3.2.2: absolute-form; the scheme is http or https for an origin server.
# userinfo is refused (RFC 9110 section 4.2.4 lets a recipient treat it as an error).
ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@\\]+)(/[^#\\]*|\?[^#\\]*)?", re.IGNORECASE)

# RFC 3986 section 3.2.2: host = IP-literal / IPv4address / reg-name, RFC 9110 section 7.2 adds
# an optional port. The empty reg-name that RFC 3986 permits is refused: no http URI has it.
_REG_NAME = rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
_H16 = rb"[0-9A-Fa-f]{1,4}"
_DEC_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_LS32 = rb"(?:%b:%b|%b(?:\.%b){3})" % (_H16, _H16, _DEC_OCTET, _DEC_OCTET)
_IPV6 = rb"|".join(
    [
        rb"(?:%b:){6}%b" % (_H16, _LS32),
        rb"::(?:%b:){5}%b" % (_H16, _LS32),
        # n groups and the last 32 bits after "::", so at most 5 - n groups before it.
        *[
            rb"(?:(?:%b:){0,%d}%b)?::(?:%b:){%d}%b" % (_H16, 4 - n, _H16, _H16, n, _LS32)
            for n in range(5)
        ],
        rb"(?:(?:%b:){0,5}%b)?::%b" % (_H16, _H16, _H16),
        rb"(?:(?:%b:){0,6}%b)?::" % (_H16, _H16),
    ]
)
_IP_FUTURE = rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+"
_IP_LITERAL = rb"\[(?:%b|%b)\]" % (_IPV6, _IP_FUTURE)
HOST = re.compile(rb"(?:" + _IP_LITERAL + rb"|" + _REG_NAME + rb")(?::[0-9]{0,5})?")

# RFC 9112 section 3.2.3: authority-form = uri-host ":" port, the port not optional.
AUTHORITY_FORM = re.compile(rb"(?:" + _IP_LITERAL + rb"|" + _REG_NAME + rb"):[0-9]{1,5}")

# RFC 9110 section 8.6: Content-Length = 1*DIGIT. Bounded, so that int() is cheap and exact.
CONTENT_LENGTH = re.compile(rb"[0-9]{1,18}")

# RFC 9112 section 7.1: chunk-size [ chunk-ext ], the extensions checked to the letter, because a
# CR let through here hides a request from one of two parsers in a row.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})"
    rb"(?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*"
)

# A line end that is not CRLF (RFC 9112 section 2.2 permits to take a bare LF for one; that
# leniency is what lets two parsers disagree), or a NUL.
BAD_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")

# Response fields written by the application: a name that is a token, a value without CR, LF, NUL.
RESPONSE_NAME = re.compile(TOKEN)
RESPONSE_VALUE_BAD = re.compile(rb"[\x00\r\n]")

# The beginning of any request line, or of an empty line before it: what does not match can be
# refused without waiting for more.
LINE_BEGINNING = re.compile(
    rb"(?:\r|(?:" + TOKEN + rb")?(?: [\x21-\x7e]*(?: [A-Z0-9/.]{0,8}\r?)?)?)\Z"
)

EMPTY_LINES = re.compile(rb"(?:\r\n)*")
