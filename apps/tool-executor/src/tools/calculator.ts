import { ExpressionError, evaluate, expressionNames } from './expression.ts';
import { type Tool, ToolError } from './tool.ts';

export const calculator: Tool = {
  name: 'calculator',
  description: `Evaluates an arithmetic expression: + - * / % ^, parentheses, and ${expressionNames.join(', ')}. Angles are in radians, log is to base 10.`,
  parameters: {
    type: 'object',
    properties: {
      expression: {
        type: 'string',
        minLength: 1,
        maxLength: 1_000,
        description: 'For instance 2 * (3 + 4) ^ 2.',
      },
    },
    required: ['expression'],
    additionalProperties: false,
  },
  idempotent: true,
  timeoutMs: 5_000,
  run({ expression }) {
    try {
      return shown(evaluate(String(expression)));
    } catch (error) {
      throw error instanceof ExpressionError ? new ToolError(error.message) : error;
    }
  },
};

/** 15 significant digits, which is what a double holds: 0.1 + 0.2 is 0.3. */
export function shown(value: number): string {
  const rounded = Number(value.toPrecision(15));
  return String(rounded === 0 ? 0 : rounded);
}
