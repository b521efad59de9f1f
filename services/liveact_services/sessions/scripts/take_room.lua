-- Takes up to so many of the places that a cluster has said it has room for.
-- KEYS  room, a hash by pool
-- ARGV  pool, places wanted
-- -> OK, places taken
local room = math.floor(tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0'))
local taken = math.min(room, tonumber(ARGV[2]))
if taken <= 0 then
  return {'OK', 0}
end
redis.call('HINCRBYFLOAT', KEYS[1], ARGV[1], -taken)
return {'OK', taken}
