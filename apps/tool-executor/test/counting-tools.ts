import { appendFileSync } from 'node:fs';
import { tools as builtinTools } from '../src/tools/builtin-tools.ts';
import type { Tool } from '../src/tools/tool.ts';

// Tools whose runs can be counted from outside: each writes a line with its token into a file before it answers. For the
// regression cluster; nothing of production can name this module.

function counting(name: string, idempotent: boolean): Tool {
  return {
    name,
    description: name,
    parameters: {
      type: 'object',
      properties: { file: { type: 'string' }, token: { type: 'string' }, ms: { type: 'integer' } },
      required: ['file', 'token'],
    },
    idempotent,
    timeoutMs: 60_000,
    async run({ file, token, ms }) {
      appendFileSync(String(file), `${name} ${token}\n`);
      // The effect is there, the answer not yet: what a crash hides.
      await new Promise((resolve) => setTimeout(resolve, Number(ms ?? 0)));
      return `counted ${token}`;
    },
  };
}

export const tools: readonly Tool[] = [
  ...builtinTools,
  counting('count', true),
  counting('count_once', false),
];
