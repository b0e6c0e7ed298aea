import { describePoison } from '../test/conformance/poison-suite.ts';
import { kafkajsBus } from './kafkajs-bus.ts';

describePoison('kafkajs', kafkajsBus);
