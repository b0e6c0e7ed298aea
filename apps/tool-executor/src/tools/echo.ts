import type { Tool } from './tool.ts';

export const echo: Tool = {
  name: 'echo',
  description: 'Returns the text it is given.',
  parameters: {
    type: 'object',
    properties: { text: { type: 'string', maxLength: 10_000, description: 'What to return.' } },
    required: ['text'],
    additionalProperties: false,
  },
  idempotent: true,
  timeoutMs: 5_000,
  run: ({ text }) => String(text),
};
