import { describe, expect, test } from 'vitest';
import { parseStackArguments } from './stack-settings.ts';

describe('the arguments of npm start', () => {
  test('services left out, ports, data folder', () => {
    const args = [
      '--without',
      'gateway,tool-executor',
      '--without',
      'outbox-sync',
      '--port-kafka',
      '9192',
      '--data-dir',
      '/tmp/x',
    ];
    expect(parseStackArguments(args)).toEqual({
      dataDir: '/tmp/x',
      without: ['gateway', 'tool-executor', 'outbox-sync'],
      ports: { kafka: 9192 },
    });
  });

  test.each([
    [['--without', 'gatway'], 'gateway, conversation-worker'],
    [['--port-kafka', 'many'], '--port-kafka many'],
    [['--colour'], '--without'],
  ])('%j is refused with what would be right', (args, says) => {
    expect(() => parseStackArguments(args)).toThrow(says);
  });
});
