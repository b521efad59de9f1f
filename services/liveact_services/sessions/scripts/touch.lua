-- uses tenant
-- The lease holder's report of progress. The tenant is the record's own, so its keys are made here; like every script of
-- ours, whose keys never lie in one slot, it needs a Redis that is no cluster.
-- KEYS  session, lease, due
-- ARGV  id, fencing token, due time ('' to keep), frames ('' to keep), '1' if a client is attached, '0' if none, '' to keep,
--       milliseconds of video a day ('' for no limit), milliseconds a place is held, what tenants' keys begin with,
--       field, value, ...
-- -> OK | OVER, seconds to the next day | MISSING | STALE
local tenant = redis.call('HGET', KEYS[1], 'tenant')
if not tenant then
  return {'MISSING'}
end
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return {'STALE'}
end
local of_tenant = ARGV[8] .. tenant
local usage = of_tenant .. ':usage'
if ARGV[4] ~= '' then
  count(usage, KEYS[1], ARGV[4])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 9))
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
end
hold(of_tenant .. ':places', ARGV[1], ARGV[7])
if ARGV[5] == '1' then
  hold(of_tenant .. ':streams', ARGV[1], ARGV[7])
elseif ARGV[5] == '0' then
  redis.call('ZREM', of_tenant .. ':streams', ARGV[1])
end
local minutes = tonumber(ARGV[6])
if minutes and used(usage) >= minutes then
  return {'OVER', to_midnight}
end
return {'OK'}
