-- uses tenant
-- Reserves the stream of a session that is resumed. One that takes over from another stream needs no second place.
-- KEYS  session, tenant's streams, tenant's usage
-- ARGV  id, streams, milliseconds of video a day ('' for no limit), milliseconds a place is held, ended states (' A B ')
-- -> OK | MISSING | ENDED, state | STREAMS | MINUTES, seconds to the next day
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return {'MISSING'}
end
if string.find(ARGV[5], ' ' .. state .. ' ', 1, true) then
  return {'ENDED', state}
end
if is_full(KEYS[2], ARGV[1], tonumber(ARGV[2])) then
  return {'STREAMS'}
end
local minutes = tonumber(ARGV[3])
if minutes and used(KEYS[3]) >= minutes then
  return {'MINUTES', to_midnight}
end
hold(KEYS[2], ARGV[1], ARGV[4])
return {'OK'}
