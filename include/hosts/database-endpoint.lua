-- While the map says so, new connections to the database wait instead of failing; what was connected is not touched.
-- Raising a frontend's maxconn with clients waiting hangs HAProxy 2.6.12, and a server in maintenance refuses them.
local file = os.getenv("SEBENZA_PAUSE_MAP") or "/etc/haproxy/maps/database-pause.map"
local map = Map.new(file, Map._str)

core.register_action("hold_while_paused", { "tcp-req" }, function(txn)
  -- A time, not a flag: whoever has paused and died holds nobody for longer.
  while (tonumber(map:lookup("paused_until")) or 0) > core.now().sec do
    core.msleep(10)
  end
end)
