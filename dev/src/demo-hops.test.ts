import { expect, test } from 'vitest';
import { parseEvents } from './demo-gateway.ts';
import { missingHops } from './demo-hops.ts';

const whole = [
  'trace 5b8efff798038103d269b633813fc60c: 26 spans, 7 services, 141.0 ms',
  'gateway              3.1 ms  +  0.0 ms  POST /v1/session/message',
  'gateway              1.9 ms  +  2.0 ms  └─ publish conversation.inbound',
  'conversation-worker  1.0 ms  +  4.0 ms     └─ process conversation.inbound',
  'conversation-worker  1.0 ms  +  5.0 ms        ├─ publish memory.recall.requests',
  'memory-replicator    1.0 ms  +  6.0 ms        │  └─ answer memory.recall.requests',
  'memory-replicator    1.0 ms  +  7.0 ms        │     └─ publish memory.recall.results',
  'conversation-worker  1.0 ms  +  8.0 ms        │        └─ process memory.recall.results',
  'conversation-worker  1.0 ms  +  9.0 ms        ├─ publish tool.requests',
  'tool-executor        1.0 ms  + 11.0 ms        │  └─ process tool.requests',
  'tool-executor        1.0 ms  + 15.0 ms        │     └─ publish tool.results',
  'conversation-worker  1.0 ms  + 18.0 ms        │        └─ process tool.results',
  'conversation-worker  1.0 ms  + 19.0 ms        ├─ publish delegation.tasks',
  'delegation-worker    1.0 ms  + 20.0 ms        │  └─ process delegation.tasks',
  'delegation-worker    1.0 ms  + 21.0 ms        │     ├─ publish conversation.inbound',
  'conversation-worker  1.0 ms  + 22.0 ms        │     │  └─ publish turn.results',
  'delegation-worker    1.0 ms  + 23.0 ms        │     │     └─ process turn.results',
  'delegation-worker    1.0 ms  + 24.0 ms        │     └─ publish delegation.updates',
  'conversation-worker  1.0 ms  + 25.0 ms        │        ├─ process delegation.updates',
  'delegation-gateway   1.0 ms  + 25.0 ms        │        └─ process delegation.updates',
  'conversation-worker  1.0 ms  + 30.0 ms        ├─ publish conversation.outbound',
  'gateway              1.0 ms  + 33.0 ms        │  └─ process conversation.outbound',
  'conversation-worker  1.0 ms  + 34.0 ms        └─ publish memory.writes',
  'memory-sync          1.0 ms  + 35.0 ms           └─ process memory.writes',
  'memory-sync          1.0 ms  + 36.0 ms              └─ publish memory.wal',
  'memory-replicator    1.0 ms  + 37.0 ms                 └─ process memory.wal',
];

test('a whole trace misses nothing, whoever published', () => {
  expect(missingHops(whole.join('\n'))).toEqual([]);
  const relayed = whole.map((line) =>
    line.replace(/^(?:gateway|delegation-worker)( .*publish conversation\.inbound)/, 'outbox-sync$1'),
  );
  expect(missingHops(relayed.join('\n'))).toEqual([]);
});

test('names the hop that is missing', () => {
  const without = whole.filter((line) => !line.includes('process tool.requests'));
  expect(missingHops(without.join('\n'))).toEqual(['tool-executor: process tool.requests']);
  expect(missingHops('')).toHaveLength(25);
});

test('reads server-sent events, in parts as they come', () => {
  const { events, rest } = parseEvents(
    'retry: 1000\n\n: keepalive\n\nid: 1-2\nevent: assistant.delta\ndata: {"text":"a"}\n\nevent: x',
  );
  expect(events).toEqual([{ type: 'assistant.delta', data: { text: 'a' } }]);
  expect(rest).toBe('event: x');
});
