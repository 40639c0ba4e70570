-- wrk script of every workload: sets the request up and prints the result as one line of JSON.
-- Arguments: method, body size in bytes, prefix of a header value that never repeats ("-": none),
-- number of requests after which to stop ("0": run for the whole duration).

function init(args)
  wrk.method = args[1]
  local size = tonumber(args[2])
  if size > 0 then
    wrk.body = string.rep("x", size)
    wrk.headers["Content-Type"] = "application/octet-stream"
  end
  if args[3] ~= "-" then
    unique_requests(args[3])
  elseif tonumber(args[4]) > 0 then
    counted_requests(tonumber(args[4]))
  end
end

-- Defining the global `request` makes wrk call it per request: only where it is needed.
function unique_requests(prefix)
  wrk.headers["X-Request-Id"] = prefix .. "@"
  local head, tail = wrk.format():match("^(.-)@(.*)$")
  local count = 0
  request = function()
    count = count + 1
    return head .. count .. tail
  end
end

function counted_requests(limit)
  local text = wrk.format()
  local count = 0
  request = function()
    count = count + 1
    if count > limit then
      wrk.thread:stop()
    end
    return text
  end
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '@result {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
    '"connect_errors": %d, "read_errors": %d, "write_errors": %d, "timeouts": %d, "bad_status": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
