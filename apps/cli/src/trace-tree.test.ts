import { describe, expect, it } from 'vitest';
import { traceTree, type ZipkinSpan } from './trace-tree.ts';

function span(id: string, more: Partial<ZipkinSpan> & { service?: string } = {}): ZipkinSpan {
  const { service = 'gateway', ...rest } = more;
  return {
    traceId: 't1',
    id,
    name: `span ${id}`,
    timestamp: 1_000_000,
    duration: 1000,
    localEndpoint: { serviceName: service },
    ...rest,
  };
}

describe('traceTree', () => {
  it('draws parents above their children, siblings by start, times in milliseconds', () => {
    const lines = traceTree([
      span('c', { parentId: 'a', timestamp: 1_004_000, duration: 12_345, service: 'conversation-worker' }),
      span('a', { name: 'POST /v1/session/message', duration: 4200 }),
      span('d', { parentId: 'c', timestamp: 1_005_000, duration: 500, service: 'tool-executor' }),
      span('b', { parentId: 'a', timestamp: 1_001_000, duration: 800 }),
    ]);
    expect(lines).toEqual([
      'trace t1: 4 spans, 3 services, 16.3 ms',
      'gateway               4.2 ms  +0.0 ms  POST /v1/session/message',
      'gateway               0.8 ms  +1.0 ms  ├─ span b',
      'conversation-worker  12.3 ms  +4.0 ms  └─ span c',
      'tool-executor         0.5 ms  +5.0 ms     └─ span d',
    ]);
  });

  it('draws the line of a parent past its deeper children', () => {
    const names = traceTree([
      span('a'),
      span('b', { parentId: 'a', timestamp: 1_000_001 }),
      span('c', { parentId: 'b', timestamp: 1_000_002 }),
      span('d', { parentId: 'a', timestamp: 1_000_003 }),
    ]).map((line) => line.slice(line.indexOf('+0.0 ms') + 9));
    expect(names.slice(1)).toEqual(['span a', '├─ span b', '│  └─ span c', '└─ span d']);
  });

  it('shows a span whose parent is missing at the top, and says so', () => {
    const lines = traceTree([span('a'), span('b', { parentId: 'lost', timestamp: 1_000_500 })]);
    expect(lines[2]).toBe('gateway  1.0 ms  +0.5 ms  span b  (parent missing)');
  });

  it('shows what failed', () => {
    const lines = traceTree([span('a', { tags: { 'signalbox.error_code': 'TIMEOUT' } })]);
    expect(lines[1]).toMatch(/span a {2}\(failed: TIMEOUT\)$/);
  });

  it('counts a span once that was sent twice, and ends on parents in a ring', () => {
    expect(traceTree([span('a'), span('a')])).toHaveLength(2);
    const ring = traceTree([span('a', { parentId: 'b' }), span('b', { parentId: 'a' })]);
    expect(ring).toHaveLength(3);
  });

  it('takes spans without times or names', () => {
    expect(traceTree([{ traceId: 't1', id: 'a' }])).toEqual([
      'trace t1: 1 spans, 1 services, ? ms',
      '?  0.0 ms  +? ms  ?',
    ]);
    expect(traceTree([])).toHaveLength(1);
  });
});
