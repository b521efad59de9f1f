-- Says which replica holds a session's state: compare and set, by the lease's holder only.
-- KEYS  session, lease
-- ARGV  fencing token, field ('denoiser' or 'decoder'), replica, the replica it is moved from ('' for none)
-- -> OK | MISSING | STALE | PLACED, replica
local now = redis.call('HGET', KEYS[1], ARGV[2])
if not now then
  return {'MISSING'}
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return {'STALE'}
end
if now ~= ARGV[4] and now ~= ARGV[3] then
  return {'PLACED', now}
end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return {'OK'}
