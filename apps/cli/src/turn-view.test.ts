import { describe, expect, it } from 'vitest';
import { createTurnView } from './turn-view.ts';

type Event = readonly [event: string, data: Record<string, unknown>];

function show(events: readonly Event[]): { text: string; end: ReturnType<typeof createTurnView>['end'] } {
  const view = createTurnView('t');
  const text = events
    .map(([event, data]) => view.apply(event, { turn_id: 't', attempt: 1, ...data }))
    .join('');
  return { text, end: view.end };
}

const delta = (at: number, text: string, attempt = 1): Event => ['assistant.delta', { at, text, attempt }];
const final = (text: string, more: Record<string, unknown> = {}): Event => [
  'assistant.final',
  { text, end_reason: 'stop', ...more },
];

describe('createTurnView', () => {
  it('shows pieces as they come and the end once', () => {
    const shown = show([['turn.started', {}], delta(0, 'Hello '), delta(6, 'you'), final('Hello you')]);
    expect(shown).toEqual({ text: 'Hello you\n', end: { ok: true, reason: 'stop' } });
  });

  it('shows no character twice when a resumed stream repeats pieces, counted in code points', () => {
    const shown = show([
      delta(0, 'a😀b'),
      delta(0, 'a😀b'),
      delta(1, '😀bc'),
      delta(4, 'd'),
      final('a😀bcd'),
    ]);
    expect(shown.text).toBe('a😀bcd\n');
  });

  it('starts the answer anew on a takeover and ignores what the old attempt still sends', () => {
    const shown = show([
      delta(0, 'first try'),
      ['turn.resumed', { attempt: 2, keep_chars: 0 }],
      delta(9, ' of the old one', 1),
      delta(0, 'second', 2),
      final('second', { attempt: 2 }),
    ]);
    expect(shown.text).toBe(
      'first try\n[another worker took the turn over; the answer starts again]\nsecond\n',
    );
  });

  it('says nothing of a takeover before anything was shown', () => {
    const shown = show([
      ['turn.resumed', { attempt: 2, keep_chars: 0 }],
      delta(0, 'x', 2),
      final('x', { attempt: 2 }),
    ]);
    expect(shown.text).toBe('x\n');
  });

  it('brings what lost pieces held with the final event', () => {
    expect(show([delta(0, 'ab'), delta(4, 'ef'), final('abcdef')]).text).toBe('abcdef\n');
    expect(show([delta(0, 'xy'), final('abc')]).text).toBe('xy\n[the answer as it stands]\nabc\n');
  });

  it('shows tools with arguments, outcome and time', () => {
    const shown = show([
      delta(0, 'Let me see.'),
      ['tool.started', { tool: 'calculator', arguments: { expression: '17*23' } }],
      [
        'tool.result',
        { tool: 'calculator', outcome: 'ok', duration_ms: 3.4, output: '391\n'.padEnd(400, 'x') },
      ],
      delta(11, ' 391'),
      final('Let me see. 391'),
    ]).text.split('\n');
    expect(shown[1]).toBe('[tool calculator {"expression":"17*23"}]');
    expect(shown[2]).toMatch(/^\[tool calculator: ok, 3 ms: 391 x+…\]$/);
    expect(shown[3]).toBe(' 391');
  });

  it('names an end that is not plain, a failure, a queue', () => {
    expect(show([final('a', { end_reason: 'max_rounds' })]).text).toBe('a\n[ended by max_rounds]\n');
    const failed = show([
      ['turn.queued', { position: 2 }],
      ['assistant.error', { error_code: 'MODEL_UNAVAILABLE', message: 'away' }],
    ]);
    expect(failed).toEqual({
      text: '[queued behind 2]\n[failed: MODEL_UNAVAILABLE: away]\n',
      end: { ok: false, reason: 'MODEL_UNAVAILABLE' },
    });
  });

  it('keeps what stands of a cancelled answer and says who ended it', () => {
    const cancel = (more: Record<string, unknown>): Event => ['turn.cancelled', { text: 'ab', ...more }];
    expect(show([delta(0, 'ab'), cancel({ cause: 'requested', reason: 'enough' }), delta(2, 'cd')])).toEqual({
      text: 'ab\n[cancelled: enough]\n',
      end: { ok: false, reason: 'turn.cancelled' },
    });
    expect(show([delta(0, 'a'), cancel({ cause: 'interrupted' })]).text).toBe(
      'ab\n[cancelled by a later message]\n',
    );
    expect(show([['turn.queued', { position: 1 }], cancel({ text: '', cause: 'requested' })]).text).toBe(
      '[queued behind 1]\n[cancelled]\n',
    );
  });

  it('says why a message got no turn, and what one that interrupts waits for', () => {
    expect(show([['turn.rejected', { reason: 'session_busy' }]])).toEqual({
      text: '[rejected: another turn of this session runs]\n',
      end: { ok: false, reason: 'turn.rejected' },
    });
    expect(show([['turn.queued', { position: 1, strategy: 'interrupt' }]]).text).toBe(
      '[the turn before it is cancelled first]\n',
    );
  });

  it('shows nothing of other turns', () => {
    expect(show([['assistant.delta', { turn_id: 'other', at: 0, text: 'no' }]]).text).toBe('');
  });
});
