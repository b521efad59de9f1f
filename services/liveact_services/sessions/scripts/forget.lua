-- Removes an ended session's record.
-- KEYS  session, tenant's sessions, due
-- ARGV  id, ended states (' A B ')
-- -> OK | KEPT
local state = redis.call('HGET', KEYS[1], 'state')
if state and not string.find(ARGV[2], ' ' .. state .. ' ', 1, true) then
  return {'KEPT'}
end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return {'OK'}
